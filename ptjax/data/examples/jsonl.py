"""Lines of JSON."""

import json

import chz

from ptjax.config import UserError
from ptjax.data.examples.columns import ColumnExamples, Row
from ptjax.data.examples.files import FileExamples, filled
from ptjax.data.examples.hidden import hidden_examples, is_hidden
from ptjax.data.files import numbered_lines


@chz.chz
class JsonExamples(ColumnExamples, FileExamples):
    """A JSON object a line; its keys are the columns."""

    def load(self, split):
        return (hidden_examples(self, split) if split == "test" and self._hides() else None) or super().load(split)

    def _hides(self) -> bool:
        """Whether test has not the columns that are named here, but those of examples without their labels."""
        named = {self.id, self.text, self.pair, self.words, *self.choices} - {None}
        first = next(self.rows("test")).cells
        return is_hidden(first) and not named <= first.keys()

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
