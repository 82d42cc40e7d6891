"""Tables of text: TSV and CSV."""

import csv
from collections.abc import Iterator

import chz

from ptjax.config import UserError
from ptjax.data.examples.columns import ColumnExamples, Row
from ptjax.data.examples.files import FileExamples, filled
from ptjax.data.examples.hidden import hidden_examples
from ptjax.data.files import numbered_lines


@chz.chz
class TableExamples(ColumnExamples, FileExamples):
    """Rows of a table, whose first line names the columns."""

    columns: tuple[str, ...] = chz.field(default=(), doc="names of the columns of files without a line of names")
    delimiter: str | None = chz.field(default=None, doc="between cells; None: a comma in .csv files, a tab in others")
    quoted: bool | None = chz.field(
        default=None, doc='whether " quotes cells, as RFC 4180 says; None: unless they stand between tabs'
    )

    @chz.validate
    def _table(self):
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise ValueError(f"examples.delimiter is one character, not {self.delimiter!r}")

    def load(self, split):
        return hidden_examples(self, split) or super().load(split)

    def rows(self, split):
        for file in self.files(split):
            columns = self.columns
            ending = file.path.removesuffix(".gz").removesuffix(".zst")[-4:].lower()
            delimiter = self.delimiter or ("," if ending == ".csv" else "\t")
            quoted = delimiter != "\t" if self.quoted is None else self.quoted
            read = _quoted(file.path, delimiter) if quoted else _plain(file.path, delimiter)
            if not columns:
                columns = tuple(next(read, (1, []))[1])
            if len(set(columns)) < len(columns):
                raise UserError(f"{file.path}:1: two columns have one name: {', '.join(columns)}")
            for number, cells in filled(file.path, read):
                origin = f"{file.path}:{number}"
                if len(cells) != len(columns):
                    raise UserError(
                        f"{origin}: {len(cells)} cells, and {len(columns)} columns ({', '.join(columns):.200}); "
                        f"cells stand between {delimiter!r}, {'quoted' if quoted else 'quotes mean nothing'} "
                        "(examples.delimiter, examples.quoted)"
                    )
                yield Row(origin, f"{file.name}-{number}", file.prefix, file.name, dict(zip(columns, cells)))


def _plain(path: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line, cells)."""
    for number, line in numbered_lines(path):
        line = line.removesuffix("\n").removesuffix("\r")
        if line:
            yield number, line.split(delimiter)


def _quoted(path: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(the first line, cells)."""
    reader = csv.reader((line for _, line in numbered_lines(path)), delimiter=delimiter, strict=True)
    number = 1
    try:
        for cells in reader:
            if cells:
                yield number, cells
            number = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{number}: the row that begins here is not quoted as RFC 4180 says: {error}") from None
