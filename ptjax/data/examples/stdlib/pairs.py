"""Which of two snippets is real code?"""

import ast
import itertools
import keyword
import textwrap
import tokenize
from collections.abc import Iterator

import chz

from ptjax.data.examples.stdlib.functions import Function, StdlibExamples, dealt, rank
from ptjax.data.examples.stdlib.places import Places, Token

FARTHEST = 8  # tokens from one that is swapped to the other
SHORTEST, LONGEST = 30, 160  # characters of a snippet


@chz.chz
class SwapExamples(StdlibExamples):
    """A statement or a few of real code, and the same with two tokens swapped: asked of a model as it was pre-trained.

    Both have the same characters in another order. The two are of one group ('names', 'keywords', 'operators' with
    brackets, 'values': numbers and strings) and stand between characters of the same sort, lest spacing tells, or the
    number of pieces that a tokenizer makes of it.
    """

    train: int = chz.field(default=0, doc="at most so many training examples; 0: none are given")
    validation: int = chz.field(default=200, doc="at most so many validation examples; 0: none are given")
    test: int = chz.field(default=600, doc="at most so many test examples; 0: none are given")
    longest: int = chz.field(default=1000, doc="characters of the longest function that a snippet is taken from")

    def load(self, split):
        pairs = (pair for function in dealt(split, self.longest) if (pair := _pair(function)) is not None)
        yield from itertools.islice(pairs, getattr(self, split))


def _pair(function: Function) -> dict | None:
    """The pair of one function; None where no part of it makes one."""
    by_rank = sorted(snippets(function), key=lambda snippet: rank(f"{function.id} {snippet}"))
    for snippet in by_rank:
        found = list(swaps(snippet))
        for group in sorted({group for group, *_ in found}, key=lambda group: rank(f"{function.id} {group}")):
            _, first, second = min(
                (one for one in found if one[0] == group),
                key=lambda one: rank(f"{snippet} {one[1].start} {one[2].start}"),
            )
            if (bad := swapped(snippet, first, second)) != snippet:
                return {"id": function.id, "good": snippet, "bad": bad, "group": group}
    return None


def snippets(function: Function) -> Iterator[str]:
    """One to three statements that follow each other in the function's body, no docstring."""
    lines = function.text.split("\n")
    body = [node for node in function.tree.body if not _is_docstring(node)]
    for start, count in itertools.product(range(len(body)), (1, 2, 3)):
        if start + count > len(body) or body[start].lineno == function.tree.lineno:
            continue
        first = min([body[start].lineno, *(d.lineno for d in getattr(body[start], "decorator_list", ()))])
        text = textwrap.dedent("\n".join(lines[first - 1 : body[start + count - 1].end_lineno]))
        if SHORTEST <= len(text) <= LONGEST and _parses(text):
            yield text


def swaps(text: str) -> Iterator[tuple[str, Token, Token]]:
    """(group, one token, another behind it) of different text."""
    tokens = [(_group(token), token) for token in Places(text).tokens() if token.type != tokenize.COMMENT]
    for place, (group, first) in enumerate(tokens):
        for other, second in tokens[place + 1 : place + 1 + FARTHEST]:
            if group == other and first.text != second.text and _edges(text, first) == _edges(text, second):
                yield group, first, second


def swapped(text: str, first: Token, second: Token) -> str:
    """The text with the two tokens in each other's place, all between them as it was."""
    return text[: first.start] + second.text + text[first.end : second.start] + first.text + text[second.end :]


def _group(token: Token) -> str:
    if token.type == tokenize.NAME:
        return "keywords" if keyword.iskeyword(token.text) else "names"
    return "operators" if token.type == tokenize.OP else "values"


def _edges(text: str, token: Token) -> tuple[str, str]:
    """Sorts of the characters before and behind a token: blank, of a word, a quote, or another."""

    def sort(character: str) -> str:
        if not character or character.isspace():
            return "blank"
        if character.isalnum() or character == "_":
            return "word"
        return character if character in "\"'" else "other"

    return sort(text[token.start - 1 : token.start]), sort(text[token.end : token.end + 1])


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _parses(text: str) -> bool:
    """False for what dedenting has broken: a string or comment further left than its statement."""
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True
