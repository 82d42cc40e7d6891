"""Who may import whom, read from the syntax trees; what `import ptjax` does; what the package ships."""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = {"config", "types", "partition", "platforms", "files"}
# Part of ptjax (module or folder) -> the parts, or single modules of them, that it may import, beside its own.
WALL = {
    "types": set(),
    "config": set(),
    "files": set(),
    "partition": {"types", "config"},
    "platforms": {"partition"},
    "nn": SHARED,
    "models": SHARED | {"nn", "data.tokenizers"},
    "data": {"config"},
    "objectives": SHARED
    | {
        "nn",
        "models.base",
        "models.heads",
        "models.electra_net",
        "models.permutation_net",
        "models.pairs",
        "models.sentence_net",
        "data",
        "metrics",
    },
    "tasks": SHARED
    | {
        "objectives",
        "models.base",
        "models.heads",
        "models.task_nets",
        "models.adapters",
        "data",
        "metrics",
        "likelihood",
        "pretrained",
    },
    "likelihood": SHARED | {"objectives", "models.base", "models.heads", "data", "pretrained"},
    "report": set(),
    "interop": SHARED | {"models", "objectives", "data", "checkpoint", "train", "embed"},
}
# The loop and what it uses know no particular model, objective or task: the config names those.
LOOP = SHARED | {
    "nn",
    "models.base",
    "models.heads",
    "objectives.base",
    "data",
    "train",
    "learner",
    "loop",
    "evaluate",
    "checkpoint",
    "weights",
}
LOOP |= {"optim", "logging", "metrics", "plot", "provenance", "branch"}
WALL["leaderboard"] = LOOP | {"jobs", "bootstrap", "tasks", "finetune", "pretrained", "report"}
WALL["compare"] = WALL["leaderboard"] | {"leaderboard", "summary"}
WALL["plan"] = LOOP | {"check.subject", "summary"}
WALL["finetune"] = LOOP | {"tasks", "pretrained"}
WALL["pretrained"] = LOOP | {"tasks", "interop.published"}
WALL["weights"] = LOOP | {"interop.published"}  # by name alone: which families there are it does not know


def modules() -> dict[str, Path]:
    """Dotted name below ptjax -> file, for every module but the packages' own __init__."""
    files = sorted((ROOT / "ptjax").rglob("*.py"))
    return {".".join(f.relative_to(ROOT / "ptjax").with_suffix("").parts): f for f in files if f.name != "__init__.py"}


def imports(path: Path) -> set[str]:
    """Absolute names of all that a file imports, inside functions too; `from a import b` gives a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def broken_rules(module: str, imported: set[str]) -> list[str]:
    part = module.partition(".")[0]
    allowed = WALL.get(part, LOOP) | {part}
    known = set(modules())
    inside = {name.removeprefix("ptjax.") for name in imported if name.startswith("ptjax.")}
    packages = {name.rpartition(".")[0] for name in known}
    wrong = [f"ptjax.{n}" for n in inside if n in known | packages and not any(within(n, a) for a in allowed)]
    # `from ptjax.models import heads` names the package too: allowed where one of its modules is
    wrong = [w for w in wrong if not (w[6:] in packages and any(within(a, w[6:]) and a in inside for a in allowed))]
    wrong += [name for name in imported if within(name, "experiments") or within(name, "configs")]
    wrong += [name for name in imported if within(name, "ptjax.experiments") or within(name, "ptjax.configs")]
    if part not in ("nn", "models"):
        wrong += [name for name in imported if within(name, "flax.linen")]
    if part == "data":
        wrong += [name for name in imported if within(name, "jax") or within(name, "flax")]
    return sorted(wrong)


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_imports_only_what_it_may(module):
    assert broken_rules(module, imports(modules()[module])) == []


@pytest.mark.parametrize(
    "module, imported",
    [
        ("train", "flax.linen"),
        ("train", "ptjax.models.bert"),
        ("train", "ptjax.objectives.mlm"),
        ("objectives.mlm", "ptjax.models.bert"),
        ("objectives.mlm", "ptjax.models"),
        ("nn.mlp", "ptjax.models.heads"),
        ("data.sources", "jax.numpy"),
        ("data.sources", "ptjax.types"),
        ("config", "ptjax.types"),
        ("models.bert", "ptjax.objectives.mlm"),
        ("evaluate", "experiments.cli"),
        ("evaluate", "ptjax.configs.bert_mlm"),
    ],
)
def test_the_wall_stands(module, imported):
    assert broken_rules(module, {imported}) == [imported]


def test_importing_ptjax_sets_nothing_and_starts_no_device():
    code = (
        "import importlib, os, sys\n"
        f"names = {['ptjax.' + name for name in modules()]}\n"
        "before = dict(os.environ)\n"
        "import ptjax\n"
        "[importlib.import_module(n) for n in names if n.startswith(('ptjax.config', 'ptjax.data'))]\n"
        "assert 'jax' not in sys.modules\n"
        "assert os.environ == before\n"
        "import jax, flax.linen, optax, orbax.checkpoint\n"  # which set some themselves
        "before = dict(os.environ)\n"
        "[importlib.import_module(n) for n in names]\n"
        "assert os.environ == before\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_every_package_is_shipped():
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg")
    shipped = set(metadata["options"]["packages"].split())
    packages = {".".join(init.parent.relative_to(ROOT).parts) for init in (ROOT / "ptjax").rglob("__init__.py")}
    for folder in ("experiments", "configs"):  # installed below ptjax
        inits = (ROOT / folder).rglob("__init__.py")
        packages |= {".".join(("ptjax", *init.parent.relative_to(ROOT).parts)) for init in inits}
    assert shipped == packages
    assert all((folder / "__init__.py").exists() for file in (ROOT / "ptjax").rglob("*.py") for folder in [file.parent])


def test_experiments_import_each_other_relatively():
    """Installed, the folder is ptjax.experiments, where `import experiments` finds nothing."""
    for path in (ROOT / "experiments").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            assert not any(within(name, "experiments") or within(name, "configs") for name in names), path
