"""The table of docs/families.md, from the families as they are and what becomes of their fixtures.

python -m tests.interop.families_page
"""

import importlib
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from ptjax.interop.families import FAMILIES
from ptjax.interop.family import Family
from ptjax.interop.huggingface import load, save
from ptjax.models.base import TextModelConfig
from tests.contracts.cases import SHIPPED_BODIES, SHIPPED_OBJECTIVES
from tests.interop import parity

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
MARKS = "<!-- made by tests/interop/families_page.py -->\n", "<!-- end -->"
HEADER = ("transformers", "Body", "Classes", "Import", "Export", "Presets", "Pre-trained by", "Objectives")


def fixtures(family: Family) -> list[Path]:
    """Folders of transformers' files, tiny and frozen, of one family."""
    folders = sorted(parity.FAMILIES.iterdir())
    return [f for f in folders if json.loads((f / "config.json").read_text())["model_type"] == family.model_type]


def imported(folder: Path) -> bool:
    """Whether the numbers of transformers come out."""
    try:
        parity.frozen(folder.name).check_outputs("padded")
    except AssertionError:
        return False
    return True


def exported(folder: Path) -> bool:
    """Whether the same tensors are written, bit for bit."""
    with tempfile.TemporaryDirectory() as other:
        other, loaded = Path(other) / "model", load(folder)
        save(other, loaded.config, loaded.params, rows=loaded.theirs["vocab_size"])
        before, after = (load_file(place / "model.safetensors") for place in (folder, other))
    return before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)


def presets(body: type[TextModelConfig], own: Callable[[TextModelConfig], bool] = lambda config: True) -> str:
    """Names of the sizes that a body, or a family's own kind of it, has by name."""
    module = importlib.import_module(body.__module__)
    names = [name for name in module.SIZES if own(body.preset(name))]
    names += [f"{name} (1.1)" for name in getattr(module, "SIZES_1_1", {})]
    return ", ".join(names)


def objectives(body: type[TextModelConfig]) -> str:
    """Which of them go with the body."""
    offers = SHIPPED_BODIES[body.__name__].offers
    goes = [name for name, objective in SHIPPED_OBJECTIVES.items() if objective.needs & offers]
    rest = [name for name in SHIPPED_OBJECTIVES if name not in goes]
    listed = lambda names: ", ".join(f"`{name}`" for name in names)
    if not rest:
        return "all"
    return f"all but {listed(rest)}" if len(rest) < len(goes) else listed(goes)


def row(family: Family, tried: bool) -> tuple[str, ...]:
    folders = fixtures(family)
    tests = (imported, exported) if tried else (Path.is_dir,) * 2
    ticks = ["✓" if folders and all(map(test, folders)) else "✗" for test in tests]
    by = {type(family.objective(parts)).__name__: None for parts in family.architectures.values() if len(parts) > 1}
    return (
        f"`{family.model_type}`",
        f"`{family.body.__name__}`",
        ", ".join(f"`{name}`" for name in family.architectures),
        *ticks,
        presets(family.body, family.own),
        ", ".join(f"`{name}`" for name in by),
        objectives(family.body),
    )


def no_family(name: str) -> tuple[str, ...]:
    """The row of a body that transformers has no class for."""
    body = type(SHIPPED_BODIES[name])
    return "–", f"`{name}`", "–", "–", "–", presets(body), "`CausalLM`", objectives(body)


def table(tried: bool) -> str:
    """tried: import and export are tried here; or else it is enough that there are fixtures, which have tests."""
    rows = [row(family, tried) for family in FAMILIES]
    rows += [no_family(name) for name in SHIPPED_BODIES if name not in {family.body.__name__ for family in FAMILIES}]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [HEADER, ("---",) * len(HEADER), *rows])


def with_table(page: str, tried: bool = True) -> str:
    """The page with the table between its marks."""
    between = re.compile(f"(?<={re.escape(MARKS[0])}).*?(?={re.escape(MARKS[1])})", re.DOTALL)
    assert between.search(page), f"{PAGE} has lost its marks"
    return between.sub(f"\n{table(tried)}\n\n", page)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
