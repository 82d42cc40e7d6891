"""What sentence-transformers keeps beside a model: how it makes a vector of a text."""

import json
from pathlib import Path

from ptjax.config import UserError
from ptjax.embed import Pooling
from ptjax.interop.tensors import read_json

MODULES, POOL, SETTINGS = "modules.json", "1_Pooling", "sentence_bert_config.json"
# Theirs -> ours, of 1_Pooling/config.json; one of them is to be set.
_POOLS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


def pooling_of(folder: str | Path) -> Pooling | None:
    """Of a sentence-transformers folder; None for any other. Raises UserError for a pipeline that ours is not."""
    folder = Path(folder)
    if not (folder / MODULES).is_file():
        return None
    modules = read_json(folder / MODULES, list)
    try:
        kinds = {module["type"].rpartition(".")[2]: folder / Path(module["path"]).name for module in modules}
    except (TypeError, KeyError, AttributeError):
        raise UserError(f"{folder / MODULES} is not a list of modules, each with a type and a path") from None
    if list(kinds) not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UserError(
            f"{folder / MODULES} is a pipeline of {', '.join(kinds)}; ptjax knows Transformer, Pooling and Normalize"
        )
    config = read_json(kinds["Pooling"] / "config.json")
    modes = [key for key, value in config.items() if key.startswith("pooling_mode") and value]
    if len(modes) != 1 or modes[0] not in _POOLS:
        raise UserError(
            f"{kinds['Pooling'] / 'config.json'} pools by {' and '.join(modes) or 'nothing'}; ptjax knows one of "
            f"{', '.join(_POOLS)}"
        )
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    length = settings.get("max_seq_length")
    if settings.get("do_lower_case"):
        raise UserError(f"{folder / SETTINGS} asks for lower case before the tokenizer, which ptjax does not do")
    if length is not None and (type(length) is not int or length < 1):
        raise UserError(f"{folder / SETTINGS} has max_seq_length={length!r}, where a number of tokens is wanted")
    return Pooling(pool=_POOLS[modes[0]], normalise="Normalize" in kinds, length=length)


def write_pooling(folder: Path, pooling: Pooling, width: int) -> list[str]:
    """The inverse: writes what sentence-transformers wants to read beside a model of this width; names of the files."""
    kinds = ["Transformer", "Pooling", *["Normalize"] * pooling.normalise]
    paths = ["", POOL, "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths))
    ]
    modes = {theirs: ours == pooling.pool for theirs, ours in _POOLS.items()}
    files = {MODULES: modules, f"{POOL}/config.json": {"word_embedding_dimension": width} | modes}
    if pooling.length:
        files[SETTINGS] = {"max_seq_length": pooling.length, "do_lower_case": False}
    (folder / POOL).mkdir()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    return list(files)
