"""The pages are true: their commands parse, their paths and names exist, their examples train."""

import contextlib
import functools
import importlib
import json
import re
import runpy
import shlex
import sys
import warnings
from pathlib import Path

import pytest

from experiments import cli
from ptjax.config import UserError, load, override, to_json
from ptjax.train import Experiment

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What commands make; all other paths exist.
PRODUCED = ("data/", "runs/", "cells/", "replay/", "checkpoints/", "NAME/", "TASK/", "hidden/")


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text()) if kind == language]


def spans(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", BLOCK.sub("", page.read_text()))


def commands(page: Path) -> list[str]:
    """Lines of the shell blocks, continued ones joined."""
    text = "".join(blocks(page, "sh")).replace("\\\n", " ")
    return [line.partition("  #")[0].strip() for line in text.splitlines() if line.strip()]


COMMANDS = [pytest.param(line, id=f"{page.stem}: {line[:70]}") for page in PAGES for line in commands(page)]


@contextlib.contextmanager
def on_path(folder: Path):
    """Classes that the pages tell a reader to save, importable as they are for the reader."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
                del sys.modules[name]


@pytest.fixture
def saved(tmp_path):
    """A folder with the Python blocks of all pages, under the names that the pages give them."""
    with on_path(tmp_path):
        yield tmp_path


def save(page: str, folder: Path) -> None:
    """Writes each Python block of a page to the file `my_*.py` that is named last before it."""
    text = (ROOT / "docs" / page).read_text()
    for found in BLOCK.finditer(text):
        if found[1] == "python":
            name = re.findall(r"`(my_\w+\.py)`", text[: found.start()])[-1]
            (folder / name).write_text(found[2])


@functools.cache
def main_of(name: str) -> dict:
    """What `python -m experiments.name` hands to `cli.run`."""
    handed = {}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(action="ignore"):  # it is imported already
        patch.setattr(cli, "run", lambda main, **settings: handed.update(settings, main=main))
        runpy.run_module(f"experiments.{name}", run_name="__main__")
    return handed


def parse(line: str, folder: Path) -> tuple[dict, cli.Command]:
    """What a command line of the pages means, as its main would see it; runs nothing."""
    words = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]
    name = words[2].removeprefix("experiments.") if words[:2] == ["python", "-m"] else words[1]
    argv = words[3:] if words[0] == "python" else words[2:]
    main = main_of(name)
    # The workdir of an earlier command.
    (folder / "config.json").write_text(to_json(load("configs/mlm_stdlib.py")))
    argv = [re.sub(r":weights=runs/\w+", f":weights={folder}", word) for word in argv]
    if "--config" not in " ".join(argv):
        argv = [f"--workdir={folder}" if word.startswith("--workdir=") else word for word in argv]
    argv = [word.replace("--config=my_", f"--config={folder}/my_") for word in argv]
    settings = {key: main[key] for key in ("doc", "base", "flags", "workdir") if key in main}
    return main, cli.parse(argv, **settings)


def test_there_are_commands_to_check():
    lines = [param.values[0] for param in COMMANDS]
    assert len(lines) > 25
    mains = "prepare pretrain evaluate generate replay check convert embed finetune leaderboard score compare plan"
    assert set(mains.split()) == {name for line in lines for name in re.findall(r"experiments\.(\w+)", line)}


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_understood(line, saved, monkeypatch):
    monkeypatch.chdir(ROOT)
    if line.startswith("make "):
        targets = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
        arguments = shlex.split(line)[1:]
        assert arguments[0] in targets
        for word in arguments[1:]:
            name, _, value = word.partition("=")
            assert f"$({name})" in (ROOT / "Makefile").read_text()
            if name == "ARGS":
                override(load("configs/mlm_stdlib.py"), value.split())
        return
    if line.startswith("source "):
        return
    for page in ("configs.md", "add-an-objective.md", "add-a-model.md", "leaderboard.md", "compare.md"):
        if not ("my_config" in line and page == "add-an-objective.md"):  # two pages have a my_config.py
            save(page, saved)
    parse(line, saved)


@pytest.mark.parametrize("wrong", ["--stepp=3", "objectiv=MLM", "--config=configs/mlm.py", "steps=many"])
def test_a_wrong_command_is_not(wrong, saved):
    with pytest.raises(UserError):
        parse(f"python -m experiments.pretrain --config=configs/mlm_stdlib.py --workdir=w {wrong}", saved)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_paths_and_names_exist(page):
    text = BLOCK.sub("", page.read_text())
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / link).exists() or link.startswith(PRODUCED), link
    for span in spans(page):
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?(\.\w+)?", span) and "/" in span and not span.startswith(PRODUCED):
            assert (ROOT / span).exists(), span
        if re.fullmatch(r"ptjax(\.\w+)+", span):
            resolve(span)


def resolve(name: str):
    """The object that a dotted name means."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            found = importlib.import_module(".".join(parts[:cut]))
            for part in parts[cut:]:
                found = getattr(found, part)
            return found
    raise AssertionError(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_keys_in_the_text_are_keys_of_configs(page):
    """`data.window`, `optimizer.clip=None`, ...: of an experiment or of a corpus."""
    configs = [load(f"configs/{name}.py") for name in ("mlm_stdlib", "causal_stdlib")]
    configs += [load("configs/causal_stdlib.py", ["model.experts=Experts"])]
    configs += [load("configs/corpus.py:glob=x", words) for words in ([], ["source=JsonLines", "source.glob=x"])]
    keys = {key for config in configs for key in json.loads(to_json(config)) if key}
    fields = {key.split(".")[0] for key in keys}
    for span in spans(page):
        key, equals, value = span.partition("=")
        if not re.fullmatch(r"\w+(\.\w+)*", key) or key.split(".")[0] not in fields or "..." in value:
            continue
        if equals:
            assert any(accepts(config, span) for config in configs), span
        elif "." in key and Path(key).suffix not in (".json", ".jsonl", ".png", ".py", ".safetensors"):
            assert key in keys, span


def accepts(config, overrides: str) -> bool:
    with contextlib.suppress(UserError):
        return bool(override(config, overrides.split()))
    return False


def test_the_tree_of_the_readme_exists():
    (tree,) = [text for text in blocks(ROOT / "README.md", "") if text.startswith("ptjax/")]
    files = []
    for line in tree.splitlines():
        parts = line.split("   ")[0].split() if line.startswith(" ") else [line.split()[0]]
        files += [("ptjax/" if line.startswith(" ") else "") + part for part in parts if part.endswith((".py", "/"))]
    assert len(files) > 10
    for file in files:
        assert (ROOT / file).exists(), file


SHRUNK = "model.layers=1 model.width=32 model.heads=2 model.hidden=64 steps=24 data.batch_size=8 data.length=32".split()
SHRUNK += "optimizer.peak_lr=0.02 evaluation.every=None evaluation.batches=2 logging.every=3".split()


@pytest.mark.parametrize("page", ["add-an-objective.md", "add-a-model.md"])
def test_the_example_trains(page, saved, tiny_corpus, monkeypatch, capsys):
    """The page's command, made small, run by its main in a reader's folder: the loss falls."""
    monkeypatch.chdir(ROOT)
    save(page, saved)
    (line,) = [line for line in commands(ROOT / "docs" / page) if "pretrain" in line]
    line = re.sub(r"--workdir=\S+", f"--workdir={saved}/run", line)
    data = [f"data.corpus.path={tiny_corpus.path}", "data.corpus.source=None", "mesh.data=1", "mesh.fsdp=8"]
    main, command = parse(shlex.join([*shlex.split(line), *data, *SHRUNK]), saved)
    assert type(command.config.objective if "objective" in page else command.config.model).__module__.startswith("my_")
    main["main"](command)
    records = [json.loads(line) for line in (saved / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record["kind"] == "train"]
    assert losses[-1] < losses[0] - 0.5, losses
    assert "validation nll" in capsys.readouterr().out


def test_the_config_of_the_objective_page_holds_it(saved, monkeypatch):
    monkeypatch.chdir(ROOT)
    save("add-an-objective.md", saved)
    config = load(str(saved / "my_config.py"), base=Experiment)
    assert type(config.objective).__name__ == "Repair" and config.objective.rate == 0.1
