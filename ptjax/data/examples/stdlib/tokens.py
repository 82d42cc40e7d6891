"""What kind of thing each token of a function is."""

import ast
import dataclasses
import itertools
import keyword
import tokenize

import chz

from ptjax.data.examples.stdlib.functions import StdlibExamples, dealt
from ptjax.data.examples.stdlib.places import Places

KINDS = {
    "keyword": "a word of the language",
    "definition": "the name of a function or class where it is defined",
    "parameter": "of this function or one around it: where it is declared, and wherever it is used",
    "local": "another name that a function or comprehension binds",
    "import": "of an import statement, or a name that one in the function binds",
    "global": "a name that nothing in the function binds: of its module, or built in",
    "call": "the last name of what is called, whatever it is else",
    "attribute": "behind a dot",
    "argument": "the name of an argument, in a call",
    "string": "",
    "number": "",
    "comment": "",
    "operator": "operators and brackets",
}
_SHAPES = {
    tokenize.STRING: "string",
    tokenize.NUMBER: "number",
    tokenize.COMMENT: "comment",
    tokenize.OP: "operator",
}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@chz.chz
class TokenKindExamples(StdlibExamples):
    """The tokens of a function, as `tokenize` cuts it, and the kind of each: KINDS, by the function's own text.

    Names are told apart by what binds them (Python's rules of scopes) and by what is done with them.
    """

    word: int = chz.field(default=24, doc="characters of a string or comment; behind them it is cut")

    @chz.validate
    def _words(self):
        if self.word < 1:
            raise ValueError("word counts characters: at least 1")

    def load(self, split):
        for function in itertools.islice(dealt(split, self.longest), getattr(self, split)):
            words, labels = labelled(function.text)
            shown = [
                " ".join(word[: self.word].split()) if label in ("string", "comment") else word
                for word, label in zip(words, labels, strict=True)
            ]
            yield {"id": function.id, "words": shown, "labels": labels}


def labelled(text: str) -> tuple[list[str], list[str]]:
    """(words, their kinds) of Python source. Raises SyntaxError where it is none."""
    places = Places(text)
    tree = ast.parse(text)
    scopes = _scopes(tree)
    kinds = _kinds_by_place(scopes, places)
    tokens = places.tokens()
    labels, before = [], ""
    for token, following in itertools.zip_longest(tokens, tokens[1:]):
        if token.type != tokenize.NAME:
            label = _SHAPES[token.type]
        elif keyword.iskeyword(token.text):
            label = "keyword"
        elif before in ("def", "class"):
            label = "definition"
        elif token.start in kinds:
            label = kinds[token.start]
        elif keyword.issoftkeyword(token.text) and before != "as":
            label = "keyword"
        elif following is not None and following.text == "=":  # in a pattern: case Point(x=0)
            label = "argument"
        else:  # no node is of the name alone: except ... as NAME, global NAME, nonlocal NAME, case [*NAME]
            around = [scope for scope in scopes if scope.holds(token.start, places)]
            label = around[-1].kind(token.text)
        labels.append(label)
        before = token.text
    return [token.text for token in tokens], labels


@dataclasses.dataclass
class _Scope:
    """names: what it binds -> kind. uses: nodes that are evaluated in it, without those of scopes inside."""

    node: ast.AST
    outer: "_Scope | None"
    names: dict[str, str] = dataclasses.field(default_factory=dict)
    uses: list[ast.AST] = dataclasses.field(default_factory=list)

    def kind(self, name: str) -> str:
        scope = self
        while scope is not None:
            if name in scope.names and (scope is self or not isinstance(scope.node, ast.ClassDef)):
                return scope.names[name]
            scope = scope.outer
        return "global"

    def holds(self, place: int, places: Places) -> bool:
        if isinstance(self.node, ast.Module):
            return True
        start, end = places.span(self.node)
        return start <= place < end


def _scopes(tree: ast.Module) -> list[_Scope]:
    """All scopes of a text, outer ones first. What its own top level binds counts as global."""
    root = _Scope(tree, None)
    found = [root]
    waiting = [(root, tree.body)]
    while waiting:
        scope, parts = waiting.pop()
        for node in _walk(parts):
            scope.uses.append(node)
            if scope is not root:
                _bind(scope, node)
            if isinstance(node, (*_FUNCTIONS, *_COMPREHENSIONS, ast.ClassDef)):
                inner = _Scope(node, scope)
                if isinstance(node, _FUNCTIONS):
                    inner.names |= {arg.arg: "parameter" for arg in _parameters(node.args)}
                found.append(inner)
                waiting.append((inner, _inside(node)))
    return found


def _walk(parts: list[ast.AST]):
    """Nodes below `parts` and they themselves, not those inside a scope of its own. The expressions in an f-string,
    which is one word, are left out."""
    stack = list(reversed(parts))
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, (*_FUNCTIONS, *_COMPREHENSIONS, ast.ClassDef)):
            inner = {id(part) for part in _inside(node)}
            below = [part for part in _children(node) if id(part) not in inner]
        else:
            below = [] if isinstance(node, ast.JoinedStr) else list(ast.iter_child_nodes(node))
        stack += reversed(below)


def _children(node: ast.AST) -> list[ast.AST]:
    """Of the node of a scope; those of a comprehension's first generator one by one, as they are of two scopes."""
    if not isinstance(node, _COMPREHENSIONS):
        return list(ast.iter_child_nodes(node))
    first = node.generators[0]
    others = [child for child in ast.iter_child_nodes(node) if child is not first]
    return others + list(ast.iter_child_nodes(first))


def _inside(node: ast.AST) -> list[ast.AST]:
    """The parts of a scope's node that are evaluated in it; the others (defaults, decorators, bases, the first
    iterable of a comprehension) in the scope around."""
    if isinstance(node, ast.Lambda):
        return [node.body]
    if isinstance(node, _COMPREHENSIONS):
        return [child for child in _children(node) if child is not node.generators[0].iter]
    return node.body


def _parameters(arguments: ast.arguments) -> list[ast.arg]:
    stars = [arg for arg in (arguments.vararg, arguments.kwarg) if arg is not None]
    return arguments.posonlyargs + arguments.args + arguments.kwonlyargs + stars


def _bind(scope: _Scope, node: ast.AST) -> None:
    """What `node` binds in `scope`."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            if scope.names.get(name) in (None, "local"):
                scope.names[name] = "import"
    elif isinstance(node, ast.Global):
        scope.names |= dict.fromkeys(node.names, "global")
    elif isinstance(node, ast.Nonlocal):
        for name in node.names:
            scope.names[name] = scope.outer.kind(name)
    elif isinstance(node, ast.NamedExpr):
        while isinstance(scope.node, _COMPREHENSIONS):  # it binds in the function around
            scope = scope.outer
        scope.names.setdefault(node.target.id, "local")
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
        scope.names.setdefault(node.id, "local")
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        scope.names.setdefault(node.name, "local")
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
        scope.names.setdefault(node.name, "local")
    elif isinstance(node, ast.MatchMapping) and node.rest:
        scope.names.setdefault(node.rest, "local")


def _kinds_by_place(scopes: list[_Scope], places: Places) -> dict[int, str]:
    """The place of a name's first character -> its kind, for names that have a node."""
    kinds, called = {}, set()
    for scope in scopes:
        for node in scope.uses:
            if isinstance(node, ast.Call):
                called.add(id(node.func))
    for scope in scopes:
        for node in scope.uses:
            if isinstance(node, ast.Name):
                kinds[places.span(node)[0]] = "call" if id(node) in called else scope.kind(node.id)
            elif isinstance(node, ast.Attribute):
                kinds[places.span(node)[1] - len(node.attr)] = "call" if id(node) in called else "attribute"
            elif isinstance(node, ast.keyword) and node.arg is not None:
                kinds[places.span(node)[0]] = "argument"
            elif isinstance(node, ast.MatchAs) and node.pattern is None and node.name is not None:
                kinds[places.span(node)[0]] = scope.kind(node.name)
            elif isinstance(node, ast.arg):
                kinds[places.span(node)[0]] = "parameter"
            elif isinstance(node, ast.Import | ast.ImportFrom | ast.Global):
                kind = "global" if isinstance(node, ast.Global) else "import"
                kinds |= dict.fromkeys(range(*places.span(node)), kind)
    return kinds
