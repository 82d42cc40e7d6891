"""Where tokens and nodes of the syntax tree stand in a text, in characters."""

import ast
import io
import itertools
import tokenize
from collections.abc import Iterator
from typing import NamedTuple


class Token(NamedTuple):
    """type: of `tokenize`: NAME, NUMBER, STRING, COMMENT or OP. start: the place of its first character."""

    type: int
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


class Places:
    """Of one text. Lines count from 1, as in `ast` and `tokenize`."""

    def __init__(self, text: str):
        self.text = text
        self._lines = text.split("\n")
        self._starts = [0, *itertools.accumulate(len(line) + 1 for line in self._lines)]

    def span(self, node: ast.AST) -> tuple[int, int]:
        """(start, end) of a node, whose columns count bytes of UTF-8."""
        return self._byte(node.lineno, node.col_offset), self._byte(node.end_lineno, node.end_col_offset)

    def tokens(self) -> list[Token]:
        """Without ends of lines and indentation. An f-string is one STRING (Python 3.12 and later cut it in parts)."""
        found = []
        for type_, start, end in self._whole_strings():
            if type_ in (tokenize.NAME, tokenize.NUMBER, tokenize.STRING, tokenize.COMMENT, tokenize.OP):
                first, last = (self._starts[line - 1] + column for line, column in (start, end))
                found.append(Token(type_, self.text[first:last], first))
        return found

    def _byte(self, line: int, column: int) -> int:
        text = self._lines[line - 1]
        return self._starts[line - 1] + (column if text.isascii() else len(text.encode()[:column].decode()))

    def _whole_strings(self) -> Iterator[tuple[int, tuple[int, int], tuple[int, int]]]:
        """(type, start, end) as `tokenize` gives them, (line, column) in characters."""
        opening, closing = getattr(tokenize, "FSTRING_START", None), getattr(tokenize, "FSTRING_END", None)
        depth, first = 0, (0, 0)
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type == opening:
                first = token.start if depth == 0 else first
                depth += 1
            elif token.type == closing:
                depth -= 1
                if depth == 0:
                    yield tokenize.STRING, first, token.end
            elif depth == 0:
                yield token.type, token.start, token.end
