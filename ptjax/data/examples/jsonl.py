"""Lines of JSON."""

import json

import chz

from ptjax.config import UserError
from ptjax.data.examples.columns import ColumnExamples, Row
from ptjax.data.examples.files import FileExamples, filled
from ptjax.data.files import numbered_lines


@chz.chz
class JsonExamples(ColumnExamples, FileExamples):
    """A JSON object a line; its keys are the columns."""

    def rows(self, split):
        for file in self.files(split):
            for number, line in filled(file.path, (pair for pair in numbered_lines(file.path) if pair[1].strip())):
                origin = f"{file.path}:{number}"
                try:
                    cells = json.loads(line, parse_constant=_not_finite)
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{origin}: not a JSON object, or cut off: {error}") from None
                if not isinstance(cells, dict):
                    raise UserError(f"{origin}: a JSON object a line is wanted, this is a {type(cells).__name__}")
                yield Row(origin, f"{file.name}-{number}", file.prefix, file.name, cells)


def _not_finite(name: str):
    raise ValueError(f"{name} is no number")
