"""Questions about a function that a span of its text answers."""

import ast
from collections.abc import Iterator

import chz

from ptjax.data.examples.stdlib.functions import Function, StdlibExamples, dealt, rank
from ptjax.data.examples.stdlib.places import Places

LONGEST_ANSWER = 60  # characters; an answer is of one line
Asked = tuple[str, list[tuple[int, int]]]  # a question, and the spans (start, end) that answer it


@chz.chz
class ReturnExamples(StdlibExamples):
    """A function, one question about it, and the spans that answer it: several where it returns or raises in several
    places. What is asked of a function, among the questions that it answers, a hash decides."""

    impossible: bool = chz.field(
        default=False, doc="ask every fourth function what it does not say, where there is such a question; no answers"
    )

    def load(self, split):
        count = 0
        for function in dealt(split, self.longest):
            if count == getattr(self, split):
                return
            asked = _chosen(function, self.impossible)
            if asked is None:
                continue
            count += 1
            question, spans = asked
            answers = [{"text": function.text[start:end], "start": start} for start, end in spans]
            yield {"id": function.id, "question": question, "context": function.text, "answers": answers}


def _chosen(function: Function, impossible: bool) -> Asked | None:
    places = Places(function.text)
    if impossible and rank(f"impossible {function.id}") % 4 == 0 and (silent := list(unanswered(function.tree))):
        return min(silent, key=lambda question: rank(f"{function.id} {question}")), []
    asked = [(question, [places.span(node) for node in nodes]) for question, nodes in answered(function.tree)]
    asked += named(function.tree, places) if rank(f"named {function.id}") % 4 == 0 else []
    asked = [one for one in asked if all(_short(function.text[start:end]) for start, end in one[1])]
    return min(asked, key=lambda one: rank(f"{function.id} {one[0]}"), default=None)


def _short(answer: str) -> bool:
    return len(answer) <= LONGEST_ANSWER and "\n" not in answer


def answered(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, list[ast.AST]]]:
    """(question, nodes that answer it), of what the function itself does, not those inside it."""
    own = list(_own(function))
    if values := [node.value for node in own if isinstance(node, ast.Return) and node.value is not None]:
        yield "What does it return?", values
    raised = [node.exc for node in own if isinstance(node, ast.Raise) and node.exc is not None]
    classes = [node.func if isinstance(node, ast.Call) else node for node in raised]
    if classes and all(_names_a_class(node) for node in classes):
        yield "What does it raise?", classes
    if loops := [node.iter for node in own if isinstance(node, ast.For | ast.AsyncFor)]:
        yield "What does it loop over?", loops
    if tests := sorted((node.lineno, node.col_offset, node.test) for node in own if isinstance(node, ast.If)):
        yield "What does it check first?", [tests[0][2]]
    for name, default in defaults(function.args):
        yield f"What is the default of {name}?", [default]
    stored = [node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    for node in own:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            if stored.count(node.targets[0].id) == 1:
                yield f"What is {node.targets[0].id} set to?", [node.value]


def unanswered(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """Questions that suppose what the function does not do, nor any inside it."""
    nodes = list(ast.walk(function))
    if not any(isinstance(node, ast.Return) and node.value is not None for node in nodes):
        yield "What does it return?"
    if not any(isinstance(node, ast.Raise) for node in nodes):
        yield "What does it raise?"
    if not any(isinstance(node, ast.For | ast.AsyncFor | ast.While) for node in nodes):
        yield "What does it loop over?"
    with_default = {name for name, _ in defaults(function.args)}
    for argument in function.args.posonlyargs + function.args.args + function.args.kwonlyargs:
        if argument.arg not in with_default | {"self", "cls"}:
            yield f"What is the default of {argument.arg}?"


def named(function: ast.FunctionDef | ast.AsyncFunctionDef, places: Places) -> Iterator[Asked]:
    """Questions about the first line, of which a hash takes one: they are easy."""
    tokens = places.tokens()
    name = next(after for token, after in zip(tokens, tokens[1:], strict=False) if token.text == "def")
    easy = [("What is it called?", [(name.start, name.end)])]
    question = "Which parameter comes first?"
    for argument in function.args.posonlyargs + function.args.args:
        start = places.span(argument)[0]
        if argument.arg not in ("self", "cls"):
            easy.append((question, [(start, start + len(argument.arg))]))
        question = f"Which parameter comes after {argument.arg}?"
    yield min(easy, key=lambda one: rank(f"{places.text} {one[0]}"))


def defaults(arguments: ast.arguments) -> list[tuple[str, ast.expr]]:
    """(parameter, its default) where there is one."""
    positional = [argument.arg for argument in arguments.posonlyargs + arguments.args]
    pairs = list(zip(positional[len(positional) - len(arguments.defaults) :], arguments.defaults, strict=True))
    keywords = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return pairs + [(argument.arg, default) for argument, default in keywords if default is not None]


def _names_a_class(node: ast.expr) -> bool:
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name.lstrip("_")[:1].isupper()


def _own(function: ast.AST) -> Iterator[ast.AST]:
    """Nodes of a function's body, without those of functions and classes inside it."""
    stack = list(reversed(function.body))
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            stack += reversed(list(ast.iter_child_nodes(node)))
