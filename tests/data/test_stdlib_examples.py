"""The embedded tasks: their labels are true, their sides are apart, and they are the same everywhere."""

import ast
import collections
import json
import keyword
import os
import re
import subprocess
import symtable
import sys

import pytest

from ptjax.config import UserError, from_json, to_json
from ptjax.data.examples.stdlib import PackageExamples, ReturnExamples, SwapExamples, TokenKindExamples
from ptjax.data.examples.stdlib import functions as library
from ptjax.data.examples.stdlib.pairs import FARTHEST
from ptjax.data.examples.stdlib.places import Places
from ptjax.data.examples.stdlib.questions import answered, named, unanswered
from ptjax.data.examples.stdlib.tokens import KINDS, labelled
from ptjax.data.sources import Stdlib

SIZES = {"train": 120, "validation": 60, "test": 60}
CONFIGS = {
    "packages": PackageExamples(**SIZES, packages=("email", "http", "logging", "unittest", "urllib", "nowhere")),
    "tokens": TokenKindExamples(**SIZES),
    "questions": ReturnExamples(**SIZES),
    "pairs": SwapExamples(**SIZES, longest=300),  # as the others: files are parsed once
}


NAMES = {  # of functions whose ids are hashes
    f"{library.rank(function.id):016x}": function.id
    for file in library.source_files()
    if file.package in CONFIGS["packages"].packages
    for function in library.functions(file, CONFIGS["packages"].longest)
}


@pytest.fixture(scope="module")
def read():
    """Name of a task -> split -> examples."""
    return {name: {split: config.read(split) for split in SIZES} for name, config in CONFIGS.items()}


def file_of(example):
    return NAMES.get(example["id"], example["id"]).partition(":")[0]


def what_it_says(example):
    return json.dumps({key: value for key, value in example.items() if key != "id"})


@pytest.mark.parametrize("name", CONFIGS)
def test_sides_are_apart(read, name):
    splits = read[name]
    for split, examples in splits.items():
        assert 0.8 * SIZES[split] <= len(examples) <= SIZES[split]
        assert len({example["id"] for example in examples}) == len(examples)
        assert len({file_of(example) for example in examples}) >= 5
    for one, other in [("train", "validation"), ("train", "test"), ("validation", "test")]:
        assert not {file_of(x) for x in splits[one]} & {file_of(x) for x in splits[other]}
        if name != "pairs":
            assert not {what_it_says(x) for x in splits[one]} & {what_it_says(x) for x in splits[other]}


def test_what_is_not_trained_on_is_unseen_by_pretraining(read):
    root = os.path.dirname(ast.__file__)
    documents = [(os.path.relpath(document.origin, root), document) for document in Stdlib().read()]
    for fraction in (library.VALIDATION_FRACTION, 0.2):  # it is nested: holding out more leaves them unseen
        seen = {name for name, document in documents if not document.held_out(fraction)}
        assert len(seen) > 300
        for task in ("tokens", "questions", "pairs"):
            for split in ("validation", "test"):
                assert not {file_of(example) for example in read[task][split]} & seen
    assert {file_of(example) for example in read["tokens"]["train"]} <= {name for name, _ in documents}


def test_packages(read):
    for split, examples in read["packages"].items():
        counts = collections.Counter(example["label"] for example in examples)
        assert set(counts) == {"email", "http", "logging", "unittest", "urllib"}  # nowhere is nowhere
        assert max(counts.values()) <= 3 * min(counts.values()) and sum(counts.values()) == len(examples)
        assert all(NAMES[example["id"]].startswith(example["label"] + "/") for example in examples)
        assert not any(example["label"] in example["id"] for example in examples)
        for example in examples:
            (function,) = ast.parse(example["text"]).body
            assert NAMES[example["id"]].partition(":")[2].split(":")[0].split(".")[-1] == function.name
    with pytest.raises(UserError, match="this Python has email, json: at least 4"):
        PackageExamples(packages=("json", "email", "no", "never")).read("test")
    with pytest.raises(ValueError, match="at least 4 different"):
        PackageExamples(packages=("json", "email", "email", "http"))


def test_the_default_packages_are_balanced():
    counts = collections.Counter(example["label"] for example in PackageExamples().read("train"))
    assert len(counts) >= 8 and max(counts.values()) <= 3 * min(counts.values()) and sum(counts.values()) > 1200


FUNCTION = '''
async def fetch(self, url, *rest, größe: int = 1, **options):
    """Reads it."""
    import os.path as p, json
    from a.b import c as d  # why
    global seen
    seen = url.host(größe, timeout=2.5)
    rows: list = [row.size for row in rest if row is not None]
    try:
        with open(p.name) as file, d(json):
            return f"{url!r:>{größe}} and {rows}", file.read
    except OSError as error:
        raise Missing("ü", key=lambda x, y=rows: x + y + url) from error
'''
FUNCTION_KINDS = """
async/keyword def/keyword fetch/definition (/operator self/parameter ,/operator url/parameter ,/operator */operator
rest/parameter ,/operator größe/parameter :/operator int/global =/operator 1/number ,/operator **/operator
options/parameter )/operator :/operator
docstring/string
import/keyword os/import ./operator path/import as/keyword p/import ,/operator json/import
from/keyword a/import ./operator b/import import/keyword c/import as/keyword d/import comment/comment
global/keyword seen/global
seen/global =/operator url/parameter ./operator host/call (/operator größe/parameter ,/operator timeout/argument
=/operator 2.5/number )/operator
rows/local :/operator list/global =/operator [/operator row/local ./operator size/attribute for/keyword row/local
in/keyword rest/parameter if/keyword row/local is/keyword not/keyword None/keyword ]/operator
try/keyword :/operator
with/keyword open/call (/operator p/import ./operator name/attribute )/operator as/keyword file/local ,/operator d/call
(/operator json/import )/operator :/operator
return/keyword fstring/string ,/operator file/local ./operator read/attribute
except/keyword OSError/global as/keyword error/local :/operator
raise/keyword Missing/call (/operator "ü"/string ,/operator key/argument =/operator lambda/keyword x/parameter
,/operator y/parameter =/operator rows/local :/operator x/parameter +/operator y/parameter +/operator url/parameter
)/operator from/keyword error/local
"""
SCOPES = """
def outer(x, call):
    def inner(y=x, *, z):
        nonlocal total
        total += (last := y)
        x = z
        return x, call(last), missing
    class Local(Base, metaclass=Meta):
        missing = 1
        def method(self): return missing, Local
    if any((hit := n) for n in x): total = hit
    del total
    match = [x for x in x if x]
    match match:
        case [first, *others] if first: return others
        case {"k": Point(x=0), **more} | _: return more, inner
        case str() as text: return text
        case whole: print(whole, match)
"""
SCOPES_KINDS = {
    "inner": [(2, "definition"), (15, "local")],
    "x": [(1, "parameter"), (2, "parameter"), (5, "local"), (6, "local"), (10, "parameter")]
    + [(12, "local"), (12, "local"), (12, "parameter"), (12, "local"), (15, "argument")],
    "y": [(2, "parameter"), (4, "parameter")],
    "z": [(2, "parameter"), (5, "parameter")],
    "total": [(3, "local"), (4, "local"), (10, "local"), (11, "local")],
    "last": [(4, "local"), (6, "local")],
    "call": [(1, "parameter"), (6, "call")],
    "missing": [(6, "global"), (8, "local"), (9, "global")],
    "Local": [(7, "definition"), (9, "local")],
    "Base": [(7, "global")],
    "metaclass": [(7, "argument")],
    "Meta": [(7, "global")],
    "hit": [(10, "local"), (10, "local")],
    "n": [(10, "local"), (10, "local")],
    "match": [(12, "local"), (13, "keyword"), (13, "local"), (17, "local")],
    "case": [(14, "keyword"), (15, "keyword"), (16, "keyword"), (17, "keyword")],
    "first": [(14, "local"), (14, "local")],
    "others": [(14, "local"), (14, "local")],
    "Point": [(15, "global")],
    "more": [(15, "local"), (15, "local")],
    "_": [(15, "keyword")],
    "text": [(16, "local"), (16, "local")],
    "whole": [(17, "local"), (17, "local")],
}


def test_kinds_of_a_function():
    stand_ins = {"docstring": '"""Reads it."""', "comment": "# why", "fstring": 'f"{url!r:>{größe}} and {rows}"'}
    expected = [pair.rpartition("/")[::2] for pair in FUNCTION_KINDS.split()]
    words, labels = labelled(FUNCTION)
    assert list(zip(words, labels)) == [(stand_ins.get(word, word), kind) for word, kind in expected]
    assert set(labels) == set(KINDS)


def test_kinds_follow_scopes():
    places = Places(SCOPES)
    words, labels = labelled(SCOPES)
    found = collections.defaultdict(list)
    for token, label in zip(places.tokens(), labels, strict=True):
        found[token.text].append((SCOPES.count("\n", 0, token.start), label))
    assert {word: found[word] for word in SCOPES_KINDS} == SCOPES_KINDS


def test_kinds_of_the_library(read):
    examples = [example for split in read["tokens"].values() for example in split]
    everywhere = collections.Counter()
    checked = 0
    for example in examples:
        assert len(example["words"]) == len(example["labels"]) and set(example["labels"]) <= set(KINDS)
        assert all(word and not re.search(r"\s\s|\n", word) for word in example["words"])
        everywhere.update(example["labels"])
    inner = (ast.Lambda, ast.FunctionDef, ast.ClassDef, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    for file in library.source_files()[:60]:
        for function in library.functions(file, 300):
            if any(isinstance(node, inner) for part in function.tree.body for node in ast.walk(part)):
                continue  # here one table of names, the compiler's own, says it all
            tables = symtable.symtable(function.text, file.name, "exec").get_children()
            table = next(table for table in tables if table.get_name() == function.tree.name)
            places = Places(function.text)
            body = places.span(function.tree.body[0])[0]  # defaults in front of it are evaluated outside
            for token, label in zip(places.tokens(), labelled(function.text)[1], strict=True):
                if token.start < body or label not in ("parameter", "local", "global"):
                    continue
                symbol = table.lookup(token.text)
                true = symbol.is_global(), symbol.is_parameter(), symbol.is_local() and not symbol.is_parameter()
                assert true == (label == "global", label == "parameter", label == "local"), (function.id, token)
                checked += 1
    assert checked > 1000
    assert len(everywhere) >= 11 and max(everywhere.values()) < 0.6 * sum(everywhere.values())


def test_long_words_are_cut():
    words = [word for example in TokenKindExamples(train=20, word=5).read("train") for word in example["words"]]
    assert max(len(word) for word in words if word[0] in "#\"'") == 5 and max(map(len, words)) > 8


BEFORE = {  # what stands in front of an answer
    r"What does it return\?": r"\breturn\s*\(*$",
    r"What does it raise\?": r"\braise\s*\(*$",
    r"What does it loop over\?": r"\bin\s*\(*$",
    r"What does it check first\?": r"\b(el)?if\s*\(*$",
    r"What is it called\?": r"^(async )?def $",
    r"Which parameter comes first\?": r"\($",
    r"Which parameter comes after (\w+)\?": r"\b{0}\b[^()]*(\(.*\))?,\s*(/,\s*)?$",
    r"What is the default of (\w+)\?": r"\b{0}\s*(:.*)?=\s*\(*$",
    r"What is (\w+) set to\?": r"\b{0}\s*=\s*\(*$",
}


@pytest.mark.parametrize("impossible", [False, True])
def test_answers_are_spans(read, impossible):
    examples = [example for split in read["questions"].values() for example in split]
    if impossible:
        examples = ReturnExamples(train=400, impossible=True).read("train")
    kinds = collections.Counter()
    for example in examples:
        (kind,) = [pattern for pattern in BEFORE if re.fullmatch(pattern, example["question"])]
        kinds[kind, bool(example["answers"])] += 1
        name = re.fullmatch(kind, example["question"]).groups()
        context = example["context"]
        for answer in example["answers"]:
            assert context[answer["start"] : answer["start"] + len(answer["text"])] == answer["text"] != ""
            assert re.search(BEFORE[kind].format(*name), context[: answer["start"]], re.DOTALL), example
        if kind.startswith("What does it return"):
            segments = [
                ast.get_source_segment(context, node.value)
                for node in ast.walk(ast.parse(context))
                if isinstance(node, ast.Return) and node.value is not None
            ]
            assert {answer["text"] for answer in example["answers"]} <= set(segments)
            assert bool(segments) == bool(example["answers"])
        elif not example["answers"] and "raise" in kind:
            assert not re.search(r"^\s*raise\b", context, re.MULTILINE)
    assert len({kind for kind, _ in kinds}) >= 7 and max(kinds.values()) < 0.5 * len(examples)
    unanswerable = sum(count for (_, has), count in kinds.items() if not has)
    assert (0.1 < unanswerable / len(examples) < 0.35) if impossible else unanswerable == 0


def test_questions_of_a_function():
    text = (
        'def größe(self, über, b="ß(", *, c: int = 2):\n    ü = "äöü", über\n    if not über: raise Leer("ü")\n'
        "    for x in b, c:\n        if x: return ü[0], größe\n    def inner(): return 5\n"
        "    twice = 1; twice = 2\n    return 'ü' + b\n"
    )
    (tree,) = ast.parse(text).body
    places = Places(text)
    found = {
        question: [text.__getitem__(slice(*places.span(node))) for node in nodes] for question, nodes in answered(tree)
    }
    assert found == {
        "What does it return?": ["ü[0], größe", "'ü' + b"],
        "What does it raise?": ["Leer"],
        "What does it loop over?": ["b, c"],
        "What does it check first?": ["not über"],
        "What is the default of b?": ['"ß("'],
        "What is the default of c?": ["2"],
        "What is ü set to?": ['"äöü", über'],
    }
    assert list(unanswered(tree)) == ["What is the default of über?"]
    ((question, ((start, end),)),) = named(tree, places)
    assert (question, text[start:end]) in {
        ("What is it called?", "größe"),
        ("Which parameter comes after self?", "über"),
        ("Which parameter comes after über?", "b"),
    }
    (empty,) = ast.parse("def f(a):\n    try:\n        raise\n    except error: raise error\n").body
    assert list(answered(empty)) == []
    assert set(unanswered(empty)) == {"What does it return?", "What does it loop over?", "What is the default of a?"}


def group_of(word):
    if word.isidentifier():
        return "keywords" if keyword.iskeyword(word) else "names"
    return "values" if word[0].isdigit() or word[-1] in "\"'" or word[-1].isdigit() else "operators"


def test_two_tokens_are_swapped(read):
    groups = collections.Counter()
    for example in read["pairs"]["validation"] + read["pairs"]["test"]:
        good, bad = example["good"], example["bad"]
        ast.parse(good)
        assert good != bad and sorted(good) == sorted(bad)
        tokens = Places(good).tokens()
        edges = [0, *(place for token in tokens for place in (token.start, token.end)), len(good)]
        pieces = [good[start:end] for start, end in zip(edges, edges[1:])]  # a gap, a token, a gap, ...
        assert "".join(pieces[::2]).replace("\\", "").strip() == "" and pieces[1::2] == [t.text for t in tokens]
        ways = []
        for one in range(1, len(pieces), 2):
            for other in range(one + 2, min(one + 2 * FARTHEST + 4, len(pieces)), 2):
                swapped = pieces.copy()
                swapped[one], swapped[other] = pieces[other], pieces[one]
                if "".join(swapped) == bad:
                    ways.append((pieces[one], pieces[other], (other - one) // 2))
        assert ways and all(first != second for first, second, _ in ways)
        assert example["group"] in {group_of(first) for first, second, _ in ways if group_of(first) == group_of(second)}
        groups[example["group"]] += 1
    assert set(groups) == {"names", "keywords", "operators", "values"}
    assert min(groups["names"], groups["operators"]) > 30
    assert SwapExamples().splits == ("validation", "test")


def test_another_process_reads_the_same(read):
    code = (
        "from ptjax.data.examples.stdlib import *; import json;"
        "print(json.dumps([SwapExamples(longest=300, validation=60).read('validation'),"
        " ReturnExamples(validation=60).read('validation')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert json.loads(done.stdout) == [read["pairs"]["validation"], read["questions"]["validation"]], done.stderr


def test_configs_are_checked_and_written():
    for config in CONFIGS.values():
        assert from_json(to_json(config)) == config
    assert TokenKindExamples(validation=0).available == ("train", "test")
    with pytest.raises(ValueError, match="at least 0"):
        ReturnExamples(test=-1)
    with pytest.raises(ValueError, match="at least 100 characters"):
        SwapExamples(longest=9)


def test_hostile_files_are_read_or_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(library.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(UserError, match="there is no Python source in .*ships its library compiled"):
        library.source_files.__wrapped__()
    good = "def f(x):\n    return 'ä', x, 'long enough, so that it counts as a function'\n"
    files = {
        "good.py": good.encode(),
        "latin.py": b"# -*- coding: latin-1 -*-\n" + good.encode("latin-1"),
        "feed.py": b"import a\n\x0c\nclass A:\n    if a:\n"
        + good.replace("def", "        def").encode().replace(b"    return", b"            return"),
        "twice/__init__.py": (good + good).encode(),
        "broken.py": b"def f(:\n",
        "wrong.py": good.encode("latin-1"),
        "null.py": b"x = 1\x00\n" + good.encode(),
        "empty.py": b"",
        "left.py": b"class A:\n    def f(self):\n        return '''\nfurther left, so that nothing is dedented'''\n",
        "test/test_f.py": good.encode(),
        "idlelib/idle_test/test_f.py": good.encode(),
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    found = library.source_files.__wrapped__()
    assert {file.name for file in found} == {name for name in files if "test" not in name}
    texts = {file.name: [(f.id, f.text) for f in library.functions(file, 300)] for file in found}
    whole = good.rstrip()
    assert {name: pairs for name, pairs in texts.items() if pairs} == {
        "good.py": [("good.py:f", whole)],
        "latin.py": [("latin.py:f", whole)],
        "feed.py": [("feed.py:A.f", whole)],
        "twice/__init__.py": [("twice/__init__.py:f", whole), ("twice/__init__.py:f:2", whole)],
    }
    monkeypatch.setattr(library, "source_files", lambda: found)  # four files on two or three sides say the same
    sides = [file.split for file in found if texts[file.name]]
    assert len(set(sides)) > 1 and sum(map(len, texts.values())) == 5
    assert [f.text for side in SIZES for f in library.dealt(side, 400)] == [whole]
