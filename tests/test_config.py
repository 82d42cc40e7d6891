"""Configs: files, overrides, hostile text, JSON, display."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import chz
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptjax.config import Config, UserError, describe, differences, from_json, help_text, load, override, to_json


@chz.chz
class Shape(Config):
    size: float = chz.field(default=1.0, doc="in metres")
    tags: tuple[str, ...] = chz.field(default=(), doc="labels")


@chz.chz
class Circle(Shape):
    closed: bool = True


@chz.chz
class Named(Shape):
    name: str
    inner: Shape = Circle(size=3.0)


@chz.chz
class Drawing(Config):
    steps: int = chz.field(default=10, doc="how many steps")
    shape: Shape = chz.field(default=Circle(size=2.0), meta_factory=chz.factories.subclass(Shape), doc="what to draw")
    spare: Shape | None = None
    pieces: tuple[Shape, ...] = (Circle(), Shape(size=0.5))
    by_name: dict[str, Shape] = chz.field(default_factory=dict)
    colour: Literal["red", "green"] = "red"
    width: int | None = None
    rules: tuple[tuple[str, int | None], ...] = (("a", 1),)
    table: dict[str, float] = chz.field(default_factory=dict)


class Forgotten(Shape):  # no @chz.chz
    radius: float = 9.0


def plain_function():
    pytest.exit("a function that the command line named was called")


def draw(*argv: str) -> Drawing:
    return override(Drawing(), argv)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


# Overrides.


@pytest.mark.parametrize(
    "argument, expected",
    [
        ("steps=1_000", 1000),
        ("steps=-1", -1),
        ("shape.size=1e-3", 1e-3),
        ("shape.size=3", 3.0),
        ("shape.closed=false", False),
        ("shape.tags=a,b", ("a", "b")),
        ("shape.tags=('a','b,c')", ("a", "b,c")),
        ("shape.tags=", ()),
        ("shape.tags=()", ()),
        ("colour=green", "green"),
        ("width=3", 3),
        ("width=None", None),
        ("rules=(('x', None), ('y', 2))", (("x", None), ("y", 2))),
        ("rules=[['x', None]]", (("x", None),)),
        ("table={'a': 1.5}", {"a": 1.5}),
        ("spare=None", None),
    ],
)
def test_values_are_read_by_the_type_of_the_field(argument, expected):
    value = draw(argument)
    for name in argument.partition("=")[0].split("."):
        value = getattr(value, name)
    assert value == expected and type(value) is type(expected)


def test_an_override_changes_nothing_else():
    assert draw("steps=3") == chz.replace(Drawing(), steps=3)
    assert draw() == Drawing()


def test_naming_a_class_resets_its_fields():
    assert draw("shape=Circle").shape == Circle(size=1.0)
    assert draw("shape=Shape").shape == Shape()
    assert draw("spare=Circle", "spare.size=4").spare == Circle(size=4.0)
    assert draw("spare=Circle", "spare=None").spare is None


def test_the_order_of_class_and_field_does_not_matter_and_the_last_of_equal_keys_wins():
    assert draw("shape.name=x", "shape.inner.size=7", "shape=Named").shape == Named(name="x", inner=Circle(size=7.0))
    assert draw("steps=1", "steps=2").steps == 2


def test_elements_of_tuples_and_dicts():
    assert draw("pieces.1.size=7").pieces == (Circle(), Shape(size=7.0))
    assert draw("pieces.2=Circle", "pieces.2.closed=False").pieces[2] == Circle(closed=False)
    assert draw("pieces=()").pieces == ()
    assert draw("pieces=()", "pieces.0=Circle").pieces == (Circle(),)
    assert draw("pieces=Shape,Named", "pieces.1.name=n").pieces == (Shape(), Named(name="n"))
    assert draw("by_name.round=Circle", "by_name.round.size=2").by_name == {"round": Circle(size=2.0)}


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["stepz=3"], ["'stepz'", "'steps'"]),
        (["size=3"], ["'size'", "'shape.size'"]),  # the nesting forgotten
        (["shape.sise=3"], ["'shape.sise'", "'shape.size'", "Circle", "closed"]),
        (["shape=Circel"], ["shape", "'Circel'", "'Circle'"]),
        (["shape=CIRCLE"], ["'CIRCLE'", "'Circle'"]),
        (["shape=Config"], ["Shape", "'Config'"]),
        (["steps=many"], ["'steps'", "int", "'many'"]),
        (["steps=1.5"], ["'steps'", "int", "'1.5'"]),
        (["shape.closed=perhaps"], ["'shape.closed'", "bool", "'perhaps'"]),
        (["colour=gren"], ["'colour'", "'red', 'green'", "Did you mean 'green'"]),
        (["rules=a"], ["'rules'", "tuple[tuple[str, int | None], ...]"]),
        (["table={'a': 'b'}"], ["'table'", "dict[str, float]"]),
        (["shape=None"], ["Shape", "'None'"]),
        (["shape=Named"], ["shape.name", "no default"]),
        (["spare.size=1"], ["'spare.size'", "spare=...", "Circle"]),
        (["pieces.4=Circle"], ["'pieces'", "2 elements", "pieces.2"]),
        (["steps.x=1"], ["'steps.x'", "10"]),
        (["table.a=1"], ["'table.a'", "table=..."]),
        (["steps"], ["'steps'", "key.path=value"]),
        (["steps@=width"], ["'steps@=width'", "key.path=value"]),
        (["...size=3"], ["key.path=value"]),
        (["shape=nomodule:X"], ["shape", "'nomodule'"]),
        (["shape=" + __name__ + ":Circel"], ["'Circel'", "'Circle'"]),
        (["shape=Forgotten"], ["@chz.chz", "Forgotten"]),
    ],
)
def test_a_mistake_says_what_would_be_right(arguments, words):
    with pytest.raises(UserError) as error:
        draw(*arguments)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


HOSTILE = ["os:getcwd", "builtins:print", "builtins:object", "os:system", "pathlib:Path", "functools:partial"]
HOSTILE += [f"{__name__}:plain_function", f"{__name__}:Drawing", "os:path.join", "ptjax.config:Config"]
HOSTILE += ["__import__('os').abort()", "lambda: 0", "lambda:0", "ptjax.config:UserError", "[].__class__"]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("key", ["shape", "spare", "pieces", "pieces.0", "by_name.x", "shape.inner"])
def test_nothing_is_called_that_is_not_a_config_of_the_field(text, key):
    before = ["shape=Named", "shape.name=n"] if key == "shape.inner" else []
    draw(*before)  # what stands around it is right
    with pytest.raises(UserError, match="subclass|named|no module|there is no"):
        draw(*before, f"{key}={text}")
    flat = {**json.loads(to_json(draw(*before))), key: text}
    with pytest.raises(UserError):
        from_json(json.dumps(flat))


@pytest.mark.parametrize("key", ["steps", "table", "rules", "width", "colour", "shape.size"])
def test_plain_fields_call_nothing_either(key):
    for text in HOSTILE:
        with pytest.raises(UserError):
            draw(f"{key}={text}")


def test_a_field_that_only_code_can_fill_is_not_set_from_text():
    @chz.chz
    class Hooked(Config):
        hook: Callable | None = None

    with pytest.raises(UserError, match="'hook'.*config file"):
        override(Hooked(), [f"hook={__name__}:plain_function"])


def test_text_stays_text():
    assert draw("shape.tags=os:getcwd").shape.tags == ("os:getcwd",)
    assert draw("shape=Named", "shape.name=builtins:print").shape.name == "builtins:print"


def test_a_subclass_without_the_decorator_is_refused_wherever_it_is():
    with pytest.raises(TypeError, match="not decorated"):
        Drawing(pieces=(Forgotten(),))
    with pytest.raises(UserError, match="@chz.chz"):
        draw("pieces.0=Forgotten")


def test_types_are_checked_when_a_config_is_built():
    with pytest.raises(TypeError, match="steps"):
        Drawing(steps="10")
    with pytest.raises(TypeError, match="shape"):
        Drawing(shape=Drawing())


def test_names_of_the_library_are_found_without_an_import():
    code = (
        "import chz, ptjax.config as c, ptjax.objectives.base as b\n"
        "@chz.chz\nclass E(c.Config):\n    objective: b.Objective | None = None\n"
        "print(type(c.override(E(), ['objective=CausalLM']).objective).__module__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "ptjax.objectives.causal", done.stderr


# Config files.

FILE = """
import chz
from ptjax.config import Config

@chz.chz
class Mine(Config):
    z: int = 1

@chz.chz
class Other(Mine):
    y: float = 0.5

@chz.chz
class Top(Config):
    part: Mine = Mine()
    size: str = "s"

def get_config(size: str = "small", z: int = 3, flag=False, *, ratio: float | None = None) -> Top:
    return Top(part=Mine(z=z if not flag else -z), size=size)
"""


def test_load_applies_arguments_then_overrides(folder):
    (folder / "a.py").write_text(FILE)
    assert load("a.py").part.z == 3
    config = load("a.py:z=5,flag=true,size=large", ["part.z=8"])
    assert (config.size, config.part.z) == ("large", 8)
    assert load("a.py:z=5,flag=true").part.z == -5
    assert type(load("a.py", ["part=Other"]).part).__name__ == "Other"


def test_a_file_is_run_once_and_its_classes_round_trip(folder):
    (folder / "runs.txt").write_text("")
    (folder / "v1.2").mkdir()
    for place in ("b.py", "v1.2/b.py"):  # importable by name, and not
        (folder / place).write_text(FILE + "open('runs.txt', 'a').write('x')\n")
    first, second = load("b.py", ["part=Other"]), load("./b.py", ["part=Other"])
    assert type(first) is type(second) and first == second
    assert from_json(to_json(first)) == first
    strange = load("v1.2/b.py", ["part=Other"])
    assert from_json(to_json(strange)) == strange and type(strange) is not type(first)
    assert (folder / "runs.txt").read_text() == "xx"


@pytest.mark.parametrize("place, found", [("c.py", True), ("v1.2/c.py", True), ("../outside.py", False)])
def test_another_process_reads_the_json(folder, monkeypatch, place, found):
    """But a JSON, which may be a stranger's, gets no file run that is not below the working directory."""
    (folder / "here").mkdir()
    monkeypatch.chdir(folder / "here")
    Path(place).parent.mkdir(exist_ok=True)
    Path(place).write_text(FILE)
    config = load(place, ["part=Other", "part.y=0.25"])
    assert from_json(to_json(config)) == config
    code = "import sys; sys.path.remove(''); from ptjax.config import *; print(from_json(sys.stdin.read()))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=to_json(config), capture_output=True, text=True, env=environment)
    assert ("y=0.25" in done.stdout) == found, done.stderr
    assert (f"UserError: the whole config is a class defined in {folder}/outside.py" in done.stderr) != found


def test_a_users_own_module_in_the_working_directory(folder):
    (folder / "base_d.py").write_text(FILE)
    own = "@chz.chz\nclass Own(base_d.Mine):\n    q: int = 1\n"
    bare = "class Bare(base_d.Mine):\n    q: int = 1\n"
    (folder / "own_d.py").write_text(f"import chz, base_d\n{own}{bare}")
    config = load("base_d.py", ["part=own_d:Own", "part.q=4"])
    assert (type(config.part).__name__, config.part.q) == ("Own", 4)
    with pytest.raises(UserError, match="@chz.chz"):
        load("base_d.py", ["part=own_d:Bare"])
    with pytest.raises(UserError, match="not a subclass of Mine"):
        load("base_d.py", ["part=base_d:Top"])


@pytest.mark.parametrize(
    "text, words",
    [
        ("def get_config(:\n", ["e.py", "line 1"]),
        ("x = 1\n", ["e.py", "get_config()"]),
        ("def get_config():\n    return 3\n", ["e.py", "Config", "3"]),
        ("import chz\nimport no_such_module\n", ["e.py", "line 2", "no_such_module"]),
        ("def get_config():\n    return 1 / 0\n", ["e.py", "line 2", "ZeroDivisionError"]),
        (FILE + "get_config = lambda: Top(size=3)\n", ["e.py", "line", "size", "str"]),
    ],
)
def test_errors_in_a_file_name_the_file_and_line(folder, text, words):
    (folder / "e.py").write_text(text)
    with pytest.raises(UserError) as error:
        load("e.py")
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    "spec, words",
    [
        ("configs/largr.py", ["configs/largr.py", "'large'", "small"]),
        ("configs/large.py:sise=3", ["'sise'", "'size'", "size: str"]),
        ("configs/large.py:big", ["'big'", "name=value"]),
        ("configs/large.py:z=big", ["'z'", "int", "'big'"]),
    ],
)
def test_mistakes_in_the_name_of_a_config(folder, spec, words):
    (folder / "configs").mkdir()
    for name in ("large", "small"):
        (folder / "configs" / f"{name}.py").write_text(FILE)
    assert load("large").size == load("configs/large").size == "small"  # the folder and the suffix may be left out
    with pytest.raises(UserError) as error:
        load(spec)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_required_argument_is_asked_for(folder):
    (folder / "g.py").write_text(FILE.replace('size: str = "small", z', "size: str, z"))
    assert load("g.py:size=a,b").size == "a,b"  # a comma separates where a name and = follow
    with pytest.raises(UserError, match="'size'.*g.py:name=value"):
        load("g.py")


def test_an_argument_given_as_a_key_is_shown_its_place(folder):
    (folder / "f.py").write_text(FILE)
    with pytest.raises(UserError, match="--config=f.py:z=3"):
        load("f.py", ["z=3"])


def test_load_checks_the_class_that_a_main_expects(folder):
    (folder / "f.py").write_text(FILE)
    with pytest.raises(UserError, match="Drawing is wanted"):
        load("f.py", [], Drawing)


# JSON and display.

shapes = st.recursive(
    st.builds(Circle, size=st.floats(allow_nan=False), closed=st.booleans(), tags=st.lists(st.text()).map(tuple)),
    lambda inner: st.builds(Named, name=st.text(), inner=inner),
    max_leaves=3,
)
drawings = st.builds(
    Drawing,
    steps=st.integers(),
    shape=shapes,
    spare=st.none() | shapes,
    pieces=st.lists(shapes, max_size=3).map(tuple),
    by_name=st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), shapes, max_size=2),
    colour=st.sampled_from(["red", "green"]),
    width=st.none() | st.integers(),
    rules=st.lists(st.tuples(st.text(), st.none() | st.integers())).map(tuple),
    table=st.dictionaries(st.text(), st.floats(allow_nan=False)),
)


@settings(max_examples=60, deadline=None)
@given(drawings, drawings)
def test_json_round_trips_and_differences_tell_configs_apart(a, b):
    assert from_json(to_json(a)) == a
    assert differences(a, a) == []
    assert bool(differences(a, b)) == (a != b)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"shape.radius": 3}, ["'shape.radius'", "Circle", "closed"]),
        ({"shape": f"{__name__}:Gone"}, ["shape", "'Gone'"]),
        ({"shape": "gone.module:Circle"}, ["shape", "'gone"]),
        ({"steps": "ten"}, ["'steps'", "int", "'ten'"]),
        ({"shape": 3}, ["'shape'", "Shape", "3"]),
        ({"": "os:getcwd"}, ["'os:getcwd'", "Config"]),
        ({"": None}, ["Config"]),
    ],
)
def test_json_of_another_version_says_what_does_not_fit(change, words):
    with pytest.raises(UserError) as error:
        from_json(json.dumps({**json.loads(to_json(Drawing())), **change}))
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"steps": 3}', "null"])
def test_what_is_not_the_json_of_a_config_is_refused(text):
    with pytest.raises(UserError, match="JSON of a config"):
        from_json(text)


def test_a_field_that_json_lacks_takes_its_default_and_a_required_one_is_named():
    flat = json.loads(to_json(draw("shape=Named", "shape.name=n", "steps=99")))
    del flat["steps"]
    assert from_json(json.dumps(flat)).steps == 10
    del flat["shape.name"]
    with pytest.raises(UserError, match="shape.name"):
        from_json(json.dumps(flat))


def test_differences_stop_at_another_class():
    assert differences(Drawing(), draw("steps=3", "shape=Named", "shape.name=n", "pieces.0.size=2")) == [
        ("steps", "10", "3"),
        ("shape", "Circle", "Named"),
        ("pieces.0.size", "1.0", "2.0"),
    ]


def test_describe_is_nested_and_help_has_every_key():
    lines = describe(Drawing()).splitlines()
    assert lines[0].split() == ["config", "Drawing"]
    assert "  shape     Circle" in lines and "    size    2.0" in lines
    rows = {line.split()[0]: line for line in help_text(Drawing()).splitlines()}
    assert set(json.loads(to_json(Drawing()))) - {""} == set(rows)
    assert "how many steps" in rows["steps"] and "Circle" in rows["shape"] and "Named" in rows["shape"]
    assert "in metres" in rows["shape.size"] and "one of 'red', 'green'" in rows["colour"]


def test_importing_the_module_imports_no_jax():
    assert importlib.util.find_spec("jax")
    code = "import sys, ptjax.config; print([m for m in ('jax', 'flax', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
