"""The mark that ptjax leaves in the config.json of a folder that it writes, under the key "ptjax".

It holds size and SHA-256 of every file, by which the folder is known later as written here and touched by nobody:
transformers' `save_pretrained` copies keys that it does not know, so the key alone proves nothing.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import ptjax.objectives
from ptjax import __version__
from ptjax.config import Config, UserError, from_json, to_json
from ptjax.data.manifest import hash_file
from ptjax.interop.tensors import read_json
from ptjax.objectives import Objective

CONFIG = "config.json"
KEY = "ptjax"


def write_config(folder: Path, theirs: dict[str, Any], objective: Objective | None) -> None:
    """Writes config.json with a mark of all that is in the folder, which is to be complete but for it."""
    files = {name: {"bytes": path.stat().st_size, "sha256": hash_file(path)} for name, path in _files(folder).items()}
    mark = {"version": __version__, "files": files, "config": _digest(theirs)}
    if objective is not None:
        mark["objective"] = json.loads(to_json(objective))
    (folder / CONFIG).write_text(json.dumps(dict(sorted((theirs | {KEY: mark}).items())), indent=2) + "\n")


def check_target(folder: Path) -> None:
    """Raises UserError where something is there that did not come from here, and would be lost."""
    if not folder.exists():
        return
    files = _files(folder) if folder.is_dir() else {folder.name: folder}
    theirs = read_json(folder / CONFIG) if folder.is_dir() and CONFIG in files else {}
    written = _mark(theirs).get("files")
    written = written if isinstance(written, dict) else {}

    def is_own(name: str, path: Path) -> bool:
        if name == CONFIG:
            return bool(_mark(theirs))
        said = written.get(name)
        return not path.is_symlink() and said == {"bytes": path.stat().st_size, "sha256": hash_file(path)}

    strange = [name for name, path in sorted(files.items()) if not is_own(name, path)]
    if strange:
        found = ", ".join(strange[:5])
        raise UserError(
            f"{folder} holds {found}, not written by ptjax or changed since: name another folder, or move it away"
        )


def objective_of(theirs: dict[str, Any]) -> Objective | None:
    """With what ptjax trained the model of a parsed config.json; None where nobody says it, or others went on with it.

    No module is imported that the file names: its classes have to be known.
    """
    flat = _mark(theirs).get("objective")
    if not isinstance(flat, dict):
        return None
    objectives = {_name(getattr(ptjax.objectives, name)) for name in ptjax.objectives.__all__}
    known = objectives | {_name(kind) for kind in _subclasses(Config) if kind.__module__.startswith("ptjax.")}
    classes = {value for value in flat.values() if isinstance(value, str) and ":" in value}
    if not isinstance(flat.get(""), str) or flat[""] not in objectives or not classes <= known:
        return None
    try:
        return from_json(json.dumps(flat), Objective)
    except UserError:  # fields of another version
        return None


def _mark(theirs: dict[str, Any]) -> dict[str, Any]:
    """The mark; empty where there is none, or where config.json has been changed since."""
    mark = theirs.get(KEY)
    return mark if isinstance(mark, dict) and mark.get("config") == _digest(theirs) else {}


def _digest(theirs: dict[str, Any]) -> str:
    """Of config.json without the mark."""
    rest = {key: value for key, value in theirs.items() if key != KEY}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> dict[str, Path]:
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _subclasses(kind: type) -> set[type]:
    return {kind}.union(*(_subclasses(one) for one in kind.__subclasses__()))
