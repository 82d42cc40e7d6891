"""Typed configs on `chz`: load a config file, apply `key.path=value` overrides, write and read JSON.

Everything works on one flat form of a config, chz's blueprint values: `{"steps": 100, "objective": MLM,
"objective.rate": 0.15}`, where a key that holds a config maps to its class. Overrides and JSON are checked against the
fields' types in that form, and only then is anything built. What a user typed is never evaluated, and nothing is
called that is not a `Config` subclass which the field admits.
"""

import ast
import difflib
import importlib
import importlib.util
import inspect
import json
import pkgutil
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import chz


class UserError(Exception):
    """A mistake that a user can mend. Mains print its message, without a traceback, and exit with status 2."""


@chz.chz(typecheck=True)
class Config:
    """Base of every config class. Building one reads no file and makes no array.

    Subclasses are written `@chz.chz class X(Config)` (chz refuses to build one without the decorator, which would lose
    its fields), with fields `chz.field(default=..., doc="...")`. Values are checked against the fields' types.
    """

    instead: typing.ClassVar[str] = ""  # what to do with a folder of such a config, where another is wanted


Values = dict[str, Any]  # key path -> value, or the class where a config is; "" -> the class of the whole


# Loading and overriding.


def load(spec: str, argv: Sequence[str] = (), base: type[Config] = Config) -> Config:
    """The config that `FILE[:arg=value,...]` returns from `get_config(**args)`, with `key.path=value` overrides.

    Args:
        spec: a Python file (or the name of a config shipped with ptjax), and arguments of its `get_config`.
        argv: overrides. Naming a class (`objective=CausalLM`) resets its fields; their order does not matter.
        base: what `get_config` has to return.

    Raises:
        UserError: no such file, an error inside it, an unknown argument or key, a value of a wrong type.
    """
    name, _, arguments = spec.partition(":")
    path = find_config_file(name)
    module = _import_file(path)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise UserError(f"{path} has no function get_config(); it has to define one that returns a {base.__name__}.")
    kwargs = _get_config_arguments(get_config, arguments, path)
    config = _run_user_code(path, lambda: get_config(**kwargs))
    if not isinstance(config, base):
        found = type(config).__name__ if isinstance(config, Config) else f"{config!r:.200}"
        raise UserError(f"get_config() of {path} returns {found}, but {base.__name__} is wanted here.")
    for argument in argv:
        name = argument.partition("=")[0]
        if name in inspect.signature(get_config).parameters and name not in chz.chz_fields(config):
            raise UserError(f"{name} is an argument of the config file, not a key: write --config={path}:{argument}")
    return override(config, argv)


def override(config: Config, argv: Sequence[str]) -> Config:
    """`config` with `key.path=value` overrides applied, shallow keys first (so a class before its fields)."""
    values = _flatten("", config)
    pairs = []
    for argument in argv:
        key, equals, text = argument.partition("=")
        if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
            raise UserError(f"Cannot read {argument!r}: overrides are written key.path=value, for example seed=1.")
        pairs.append((key, text))
    for key, text in sorted(pairs, key=lambda pair: pair[0].count(".")):  # stable: the last of equal keys wins
        _assign(values, key, text)
    return _build(values)


def find_config_file(name: str) -> Path:
    """The file `name` names: relative to the working directory, else a config of that name shipped with ptjax."""
    shipped = importlib.util.find_spec("ptjax.configs")  # there once ptjax is installed
    folders = [Path("configs")] + [Path(p) for p in (shipped.submodule_search_locations if shipped else [])]
    stem = Path(name).stem if name.endswith(".py") else Path(name).name
    candidates = [Path(name), Path(name + ".py")]
    if Path(name).parent in (Path("."), Path("configs")):
        candidates += [folder / f"{stem}.py" for folder in folders]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = sorted({path.stem for folder in folders for path in folder.glob("[!_]*.py")})
    at_hand = f" Configs at hand: {', '.join(known)}." if known else ""
    raise UserError(f"There is no config file {name}.{_did_you_mean(stem, known)}{at_hand}")


def _get_config_arguments(get_config: Callable, text: str, path: Path) -> dict[str, Any]:
    signature = inspect.signature(get_config, eval_str=True)
    parameters = signature.parameters
    described = ", ".join(map(str, parameters.values())) or "none"
    usage = f"Arguments: {described}; they are written {path}:name=value,name=value."
    kwargs = {}
    for argument in re.split(r",(?=\s*\w+\s*=)", text) if text else []:
        name, equals, value = argument.partition("=")
        name = name.strip()
        if not equals or name not in parameters:
            raise UserError(f"get_config() of {path} has no {name!r}.{_did_you_mean(name, parameters)} {usage}")
        kind = parameters[name].annotation
        if kind is inspect.Parameter.empty:
            default = parameters[name].default
            kind = type(default) if isinstance(default, (bool, int, float, str)) else object
        kwargs[name] = _cast(value, kind, f"argument {name!r} of {path}")
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        raise UserError(f"get_config() of {path}: {error}. {usage}") from None
    return kwargs


# JSON, comparison and display.


def to_json(config: Config) -> str:
    """`config` as a flat JSON object, classes as "module:Qualname"; `from_json` gives an equal config."""
    flat = {key: _class_name(v) if _is_config(v) else v for key, v in _flatten("", config).items()}
    try:
        return "{\n" + ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in flat.items()) + "\n}\n"
    except TypeError as error:
        raise UserError(f"{type(config).__name__} holds a value that JSON cannot keep: {error}") from None


def from_json(text: str, base: type[Config] = Config) -> Config:
    """The config that `to_json` wrote. Fields that have appeared since then take their defaults.

    Raises:
        UserError: not such JSON; a class or a field that no longer exists; a value of a wrong type.
    """
    try:
        flat = json.loads(text)
        root = str(flat.pop(""))
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError('This is not the JSON of a config: an object whose key "" names a class.') from None
    values: Values = {"": _find_class(root, (Config,), "the whole config")}
    if not issubclass(values[""], base):
        advice = f": {values[''].instead}" if values[""].instead else ""
        raise UserError(f"This is the config of a {values[''].__name__}, where {base.__name__} is wanted{advice}")
    for key, value in sorted(flat.items(), key=lambda item: item[0].count(".")):
        kind = _type_of(values, key)
        bases = _config_types(kind)
        if bases and isinstance(value, str):
            values[key] = _find_class(value, bases, key)
        else:
            values[key] = _check(_shape(value, kind), kind, f"field {key!r}")
    return _build(values)


def differences(a: Config, b: Config) -> list[tuple[str, str, str]]:
    """(key, value in a, value in b) of every key that differs; below another class the fields are not listed."""
    left, right = _flatten("", a), _flatten("", b)
    differing = [key for key in {**left, **right} if left.get(key, ...) != right.get(key, ...)]
    top = [key for key in differing if not any(_is_below(key, other) for other in differing)]
    return [(key, _show(left.get(key, ...)), _show(right.get(key, ...))) for key in top]


def describe(config: Config) -> str:
    """The resolved config for people: one line a field, nested configs indented below their class."""
    values = _flatten("", config)
    rows = []
    for key, value in values.items():
        parents = [k for k in values if _is_config(values[k]) and _is_below(key, k)]
        name = key.removeprefix(max(parents, key=len, default="")).removeprefix(".")
        rows.append(("  " * len(parents) + name if key else "config", _show(value)))
    return _table(rows)


def help_text(config: Config) -> str:
    """Every key that an override may name, with type, present value, meaning, and for a class its alternatives."""
    _import_all_classes()
    values = _flatten("", config)
    rows = []
    for key, value in values.items():
        if key:
            owner, name = values.get(key.rpartition(".")[0]), key.rpartition(".")[2]
            doc = chz.chz_fields(owner)[name]._doc if _is_config(owner) else ""  # else: an element of a tuple or dict
            kind = _type_of(values, key)
            names = sorted(c.__name__ for base in _config_types(kind) for c in _subclasses(base) if c is not base)
            if not all(name in doc for name in names):
                doc = f"{doc} (one of {', '.join(names)})".strip()
            rows.append((key, _type_name(kind), _show(value), doc))
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [min(40, max(map(len, column))) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def _show(value: Any) -> str:
    return "nothing" if value is ... else value.__name__ if _is_config(value) else repr(value)


# The flat form.


def _flatten(key: str, value: Any) -> Values:
    values = {key: type(value)} if isinstance(value, Config) else {}
    for below, v in chz.beta_to_blueprint_values(value).items():
        values[_join(key, below)] = v
    return values


def _build(values: Values) -> Config:
    arguments = {key: value for key, value in values.items() if key}
    try:
        return chz.Blueprint(values[""]).apply(arguments).make()
    except chz.blueprint.MissingBlueprintArg as error:
        keys = str(error).rpartition(": ")[2]
        raise UserError(f"{keys}: no value, and there is no default. Add {keys.split(', ')[0]}=...") from error
    except (TypeError, ValueError, chz.blueprint.ConstructionException, chz.blueprint.InvalidBlueprintArg) as error:
        raise UserError(_plain_message(error)) from error


def _assign(values: Values, key: str, text: str) -> None:
    """Applies one override: checks it against the field's type, drops what stood at and below `key`, sets it."""
    kind = _type_of(values, key)
    bases = _config_types(kind)
    if not bases:
        _replace(values, key, {key: _cast(text, kind, f"field {key!r}")})
    elif text == "None" and type(None) in typing.get_args(kind):
        _replace(values, key, {key: None})
    elif _is_container(kind):  # one class for each element
        names = [name for name in text.strip("()[]{}").split(",") if name]
        items = [_default_values(f"{key}.{i}", _find_class(name, bases, key)) for i, name in enumerate(names)]
        _replace(values, key, {k: v for item in items for k, v in item.items()} or {key: ()})
    else:
        _replace(values, key, _default_values(key, _find_class(text, bases, key)))


def _replace(values: Values, key: str, new: Values) -> None:
    for old in [k for k in values if k == key or _is_below(k, key)]:
        del values[old]
    parent = key.rpartition(".")[0]
    if not _is_config(values.get(parent)):
        values.pop(parent, None)  # an empty tuple gives way to its first element
    values.update(new)


def _default_values(key: str, cls: type[Config]) -> Values:
    values: Values = {key: cls}
    for name, field in chz.chz_fields(cls).items():
        default = field._default
        if field._default_factory is not chz.util.MISSING:
            default = field._default_factory()
        if default is not chz.util.MISSING:
            values |= _flatten(_join(key, name), default)
    return values


def _type_of(values: Values, key: str) -> Any:
    """The annotation at `key`, or a UserError that names the nearest key."""
    parent, _, name = key.rpartition(".")
    if not _is_config(values.get(parent)):
        kind = _type_of(values, parent)
        bases = _config_types(kind)
        if bases and _is_container(kind):
            return _element_type(kind, parent, name, values)
        if parent in values or len(bases) != 1:
            names = ", ".join(c.__name__ for base in bases for c in _subclasses(base))
            mend = f"name a class first, {parent}=..., one of {names}" if names else f"set it whole, {parent}=..."
            raise UserError(f"There is no {key!r}: {parent!r} is {_show(values.get(parent, ...))}; {mend}.")
        values.update(_default_values(parent, bases[0]))  # a field that has no default, but one class
    fields = chz.chz_fields(values[parent])
    if name not in fields:
        raise UserError(_unknown_key(values, key, values[parent]))
    return fields[name].x_type


def _element_type(kind: Any, parent: str, name: str, values: Values) -> Any:
    container = next(k for k in _members(kind) if typing.get_origin(k) in (tuple, list, dict))
    args = typing.get_args(container)
    if typing.get_origin(container) is dict:
        return args[1]
    count = len({k[len(parent) + 1 :].split(".")[0] for k in values if _is_below(k, parent)})
    if not name.isdigit() or int(name) > count:
        raise UserError(f"{parent!r} has {count} elements: {parent}.{count}=... appends one, {name!r} is not possible.")
    return args[0] if len(args) == 1 or args[-1] is ... else args[min(int(name), len(args) - 1)]


def _unknown_key(values: Values, key: str, owner: type[Config]) -> str:
    parent, _, name = key.rpartition(".")
    fields = chz.chz_fields(owner)
    named = {k: k.rpartition(".")[2] for k in values}  # for a right name in a wrong place
    near = (
        [_join(parent, field) for field in difflib.get_close_matches(name, fields, 1)]
        or [k for k in named if named[k] == name]
        or difflib.get_close_matches(key, named, 1)
        or [k for k in named if named[k] in difflib.get_close_matches(name, named.values(), 1)]
    )
    hint = f" Did you mean {' or '.join(map(repr, near[:3]))}?" if near else ""
    return f"There is no {key!r}.{hint} Fields of {owner.__name__}: {', '.join(fields) or 'none'}."


# Types and values.


def _members(kind: Any) -> tuple:
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _is_config(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Config)


def _is_container(kind: Any) -> bool:
    return any(typing.get_origin(member) in (tuple, list, dict) for member in _members(kind))


def _config_types(kind: Any) -> tuple[type[Config], ...]:
    """The Config classes that a field of this type can hold, directly or as elements."""
    if _is_config(kind):
        return (kind,)
    if typing.get_origin(kind) is typing.Literal:
        return ()
    return tuple(dict.fromkeys(c for arg in typing.get_args(kind) for c in _config_types(arg)))


def _is_inert(kind: Any) -> bool:
    """Whether reading a value of this type from text runs nobody's code."""
    origin = typing.get_origin(kind)
    if origin in (tuple, list, dict, typing.Union, types.UnionType):
        return all(_is_inert(arg) for arg in typing.get_args(kind))
    plain = (int, float, str, bool, None, type(None), object, Any, tuple, list, dict, ...)
    return kind in plain or origin is typing.Literal


def _cast(text: str, kind: Any, where: str) -> Any:
    """`text` as a value of `kind`: as chz parses it, and Python's literals for tuples, lists and dicts."""
    if not _is_inert(kind):
        raise UserError(f"{where} ({_type_name(kind)}) cannot be set from text; set it in the config file.")
    try:
        if _is_container(kind) and text[:1] in tuple("([{"):
            value = _shape(ast.literal_eval(text), kind)  # literals only: evaluates nothing
        else:
            value = chz.factories.standard(annotation=kind).perform_cast(text)
    except (chz.tiepin.CastError, ValueError, SyntaxError):
        value = text
    return _check(value, kind, where)


def _shape(value: Any, kind: Any) -> Any:
    """`value` with lists as tuples where `kind` says so, for JSON has none."""
    for member in _members(kind):
        origin, args = typing.get_origin(member) or member, typing.get_args(member)
        if origin in (tuple, list) and isinstance(value, (tuple, list)):
            kinds = args[:1] * len(value) if origin is list or args[1:] == (...,) else args
            kinds = kinds if len(kinds) == len(value) else (object,) * len(value)
            shaped = origin(_shape(v, k) for v, k in zip(value, kinds))
        elif origin is dict and isinstance(value, dict):
            shaped = {k: _shape(v, args[1] if args else object) for k, v in value.items()}
        else:
            continue
        if chz.tiepin.is_subtype_instance(shaped, member):
            return shaped
    return value


def _check(value: Any, kind: Any, where: str) -> Any:
    if not chz.tiepin.is_subtype_instance(value, kind):
        choices = [choice for choice in typing.get_args(kind) if isinstance(choice, str)]  # of a Literal
        raise UserError(f"{where} expects {_type_name(kind)}, got {value!r}.{_did_you_mean(value, choices)}")
    return value


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(kind)))
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " | ".join(_type_name(member) for member in _members(kind))
    if typing.get_origin(kind):
        return f"{typing.get_origin(kind).__name__}[{', '.join(_type_name(a) for a in typing.get_args(kind))}]"
    return "..." if kind is ... else "None" if kind in (None, type(None)) else getattr(kind, "__name__", repr(kind))


# Classes.


def _class_name(cls: type[Config]) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"  # the module of a config file that `import` cannot find is its path


def _subclasses(base: type) -> list[type]:
    below = [c for cls in base.__subclasses__() for c in _subclasses(cls)]
    return list(dict.fromkeys([base, *below]))


def published(base: type[Config]) -> list[type[Config]]:
    """ptjax's own subclasses of `base`, by name, whether imported or not."""
    _import_all_classes()
    return sorted(
        (c for c in _subclasses(base) if c.__module__.startswith("ptjax.") and c is not base), key=lambda c: c.__name__
    )


def _find_class(name: str, bases: Sequence[type[Config]], key: str) -> type[Config]:
    """The class that `name` ("Name" or "module:Name") means for `key`: a Config subclass of one of `bases`."""
    kinds = " or ".join(base.__name__ for base in bases)
    if ":" in name:
        module_name, _, qualname = name.rpartition(":")
        found = _import(module_name, key)
        for part in qualname.split("."):
            if not hasattr(found, part):
                raise UserError(f"{key}: there is no {part!r} in {name!r}.{_did_you_mean(part, dir(found))}")
            found = getattr(found, part)
        if not (isinstance(found, type) and issubclass(found, tuple(bases))):
            raise UserError(f"{key}: {name!r} is not a subclass of {kinds}, so it is not used.")
    else:
        candidates = [c for base in bases for c in _subclasses(base)]
        if name not in {c.__name__ for c in candidates}:
            _import_all_classes()
            candidates = [c for base in bases for c in _subclasses(base)]
        matches = list(dict.fromkeys(c for c in candidates if c.__name__ == name))
        if not matches:
            names = sorted({c.__name__ for c in candidates if c not in bases or len(candidates) == 1})
            module, _, last = name.rpartition(".")
            own = f"your own is written module:Name{f', so {module}:{last}' if module else ''}."
            hint = "" if module else _did_you_mean(name, names)
            raise UserError(f"{key}: there is no {kinds} named {name!r}.{hint} Known: {', '.join(names)}; {own}")
        if len(matches) > 1:
            raise UserError(f"{key}: {name!r} may be {' or '.join(map(_class_name, matches))}; write one of these.")
        found = matches[0]
    return found


def _import_all_classes() -> None:
    """Imports ptjax's bodies, objectives, tasks and data sources, so that their bare names can be found."""
    for package in ("ptjax.models", "ptjax.objectives", "ptjax.data", "ptjax.data.examples", "ptjax.tasks"):
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            importlib.import_module(f"{package}.{module.name}")


# Modules and files.


def _import(name: str, key: str) -> types.ModuleType:
    """Imports a user's module, also from the working directory, or a config file by its path."""
    if name in sys.modules:
        return sys.modules[name]
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file() or Path.cwd() not in path.resolve().parents:  # a stranger's JSON picks no file to run
            raise UserError(f"{key} is a class defined in {name}; give that file as --config={name}.")
        return _import_file(path)
    _see_working_directory()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"{key}: there is no module {error.name!r} (in {name!r}), seen from {Path.cwd()}.") from error
    except Exception as error:
        raise UserError(f"{key}: importing {name!r} fails: {type(error).__name__}: {error}") from error


def _import_file(path: Path) -> types.ModuleType:
    """Imports a config file once, under its dotted name where Python would find it so, else under its path."""
    path = path.resolve()
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == str(path) and module.__name__ != "__main__":
            return module
    name = _dotted_name(path)
    if name:
        return _run_user_code(path, lambda: importlib.import_module(name))
    spec = importlib.util.spec_from_file_location(str(path), path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    try:
        _run_user_code(path, lambda: spec.loader.exec_module(module))
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


def _dotted_name(path: Path) -> str | None:
    """The name under which `import` finds the file, if it does: then other processes find its classes too."""
    _see_working_directory()
    names = [f"ptjax.configs.{path.stem}"]
    if Path.cwd() in path.parents:
        names.insert(0, ".".join(path.relative_to(Path.cwd()).with_suffix("").parts))
    for name in names:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            continue
        if spec and spec.origin and Path(spec.origin).resolve() == path:
            return name
    return None


def _see_working_directory() -> None:
    """Lets an installed command import from the working directory as `python -m` does; last, so it hides nothing."""
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.append(str(Path.cwd()))


def _run_user_code(path: Path, function: Callable[[], Any]) -> Any:
    """Calls `function`, whose errors are those of the config file `path`: they become UserErrors with file and line."""
    try:
        return function()
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}: {(error.text or '').strip()}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
        place = f"{path}, line {lines[-1]}" if lines else str(path)
        raise UserError(f"{place}: {type(error).__name__}: {_plain_message(error)}") from error


# Messages.


def _plain_message(error: Exception) -> str:
    return re.sub(r"\bX_(\w+)", r"\1", str(error))  # chz's name of the raw field


def _did_you_mean(name: Any, known: Iterable[str]) -> str:
    folded = {str(one).casefold(): one for one in known}
    near = difflib.get_close_matches(str(name).casefold(), folded, 1)
    return f" Did you mean {folded[near[0]]!r}?" if near else ""


def _is_below(key: str, parent: str) -> bool:
    return key.startswith(parent + ".") if parent else key != ""


def _join(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent and name else parent or name
