"""Law 5: every config in configs/ loads, round-trips through JSON, and trains, shrunk."""

from pathlib import Path

import chz
import jax
import pytest

from ptjax.compare import Comparison
from ptjax.config import differences, from_json, load, to_json
from ptjax.data.prepare import Corpus
from ptjax.finetune import FineTuning, finetune
from ptjax.leaderboard import Suite
from ptjax.objectives import RTD
from ptjax.partition import MeshConfig
from ptjax.train import Experiment, Run, train

CONFIGS = sorted(path for path in (Path(__file__).parents[2] / "configs").rglob("*.py") if path.stem != "__init__")


def loaded(path: Path, folder: Path):
    """folder: where nothing is; what goes on from weights goes on from a run there."""
    (folder / "config.json").write_text(to_json(load("configs/mlm_stdlib.py")))
    arguments = {"corpus": ":glob=texts/*.txt", "continued": f":weights={folder},glob=texts/*.txt"}
    arguments |= dict.fromkeys(("english", "blimp", "small"), ":data=files")
    arguments |= dict.fromkeys(("objectives", "phases", "detection"), ":books=texts,tasks=files")
    return load(f"{path}{arguments.get(path.stem, '')}")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_round_trip(path, tmp_path):
    config = loaded(path, tmp_path)
    again = from_json(to_json(config))
    assert again == config and not differences(config, again)


def test_what_goes_on_marks_documents_as_before(tmp_path):
    there = load("configs/mlm_stdlib.py")
    for side in ("begin", "end"):
        corpus = chz.replace(there.data.corpus, boundary=side)
        e = chz.replace(there, data=chz.replace(there.data, corpus=corpus))
        (tmp_path / "config.json").write_text(to_json(e))
        e = load(f"configs/continued.py:weights={tmp_path},glob=texts/*.txt")
        assert e.data.corpus.boundary == side and e.data.corpus.tokenizer.path == corpus.path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_trains(path, tiny_corpus, trained, tmp_path):
    config = loaded(path, tmp_path)
    if isinstance(config, Corpus | Suite | Comparison):
        pytest.skip("not an experiment: tests/data prepares a corpus, others run a suite and a comparison")
    if isinstance(config, FineTuning):
        examples = chz.replace(config.task.examples, train=64, validation=16, test=16)
        task = chz.replace(config.task, examples=examples, length=32)
        recipe = chz.replace(config.recipe, epochs=1.0, evaluations=1, seeds=(0,), batch_size=16)
        small = chz.replace(config, task=task, recipe=recipe, init_from=str(trained("mlm").workdir))
        assert finetune(small, tmp_path / "tuned", on_event=str)["failed"] == {}
        return
    small = dict(layers=2, width=32, heads=2, hidden=64, max_length=64, unroll=False)
    experiment: Experiment = chz.replace(
        config,
        model=chz.replace(config.model, **small),
        data=chz.replace(config.data, corpus=tiny_corpus, length=32, batch_size=16),
        steps=2,
        init_from=None,
        accumulation=min(config.accumulation, 2),
        mesh=MeshConfig(),
        evaluation=chz.replace(config.evaluation, every=1, batches=1),
        logging=chz.replace(config.logging, every=1, progress=False),
    )
    # One device: the laws of layouts take every objective and body to meshes.
    state, scores = train(Run.open(experiment, jax.devices()[:1]), tmp_path / "run")
    assert int(state.step) == 2
    assert scores["loss"] < (60 if isinstance(config.objective, RTD) else 8)  # whose second term counts fifty times
