"""What a user can do wrong: one clear message on stderr, exit code 2, no traceback, nothing lost.

Mains run in this process, as from a shell.
"""

import errno
import json
import re
import shutil
from pathlib import Path

import chz
import jax
import pytest

from experiments import evaluate, generate, pretrain, replay
from ptjax.checkpoint import Checkpoints
from ptjax.config import to_json
from ptjax.data.prepare import prepare
from ptjax.data.sources import TextFiles
from tests.small import call, experiment

CONFIG = """
from pathlib import Path

from ptjax.config import from_json


def get_config():
    return from_json(Path(__file__).with_suffix(".json").read_text())
"""


@pytest.fixture
def command(tiny_corpus, tmp_path, capfd):
    """command(main, *arguments) -> (exit code, stdout, stderr); --config and --workdir are given."""
    (tmp_path / "my_config.py").write_text(CONFIG)
    (tmp_path / "my_config.json").write_text(to_json(experiment(tiny_corpus, steps=2)))

    def command(module, *arguments: str, workdir=tmp_path / "run", config=True):
        given = [f"--config={tmp_path / 'my_config.py'}"] if config else []
        code = call(module, *given, f"--workdir={workdir}", *arguments)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return command


def check(result, *patterns: str) -> None:
    code, _, error = result
    assert code == 2, error
    assert error.startswith("Error: ") and "Traceback" not in error
    for pattern in patterns:
        assert re.search(pattern, error), error


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the ended run's workdir, to be damaged."""
    return Path(shutil.copytree(trained("mlm").workdir, tmp_path / "copied"))


@pytest.fixture
def own_corpus(tiny_corpus, tmp_path):
    """A copy of the prepared corpus, to be damaged."""
    folder = Path(shutil.copytree(tiny_corpus.path, tmp_path / "corpus"))
    return chz.replace(tiny_corpus, path=str(folder))


# What is typed.


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["optimizer.peek_lr=1e-3"], "There is no 'optimizer.peek_lr'. Did you mean 'optimizer.peak_lr'"),
        (["objective=CausaLM"], "CausalLM"),
        (["objective=os:getcwd"], "objective"),
        (["steps=ten"], "'steps' expects int, got 'ten'"),
        (["steps=0"], "steps must be at least 1"),
        (["seed=-1"], r"seed must be in \[0, 2\*\*32\)"),
        (
            ["data.batch_size=12"],
            "data.batch_size=12 does not divide into mesh.data . mesh.fsdp . mesh.expert = 8 .* such as 8",
        ),
        (["data.batch_size=8", "accumulation=2"], "use a multiple of 16, such as 16"),
        (["data.batch_size=0"], "batch_size=0"),
        (["data.length=128"], "data.length=128 is longer than the position table: set model.max_length=128 or more"),
        (["objective=PLM"], "PLM needs a body that offers two streams, and BERT offers text: set model to .* XLNet"),
        (["objective=MLM", "model=T5"], "T5 offers pairs: set model to one of .*BERT, "),
        (
            ["objective=UL2", "data.length=64"],
            "UL2 makes .* one row of 112 positions, and its position table has 64: set model.max_length=112",
        ),
        (["data.length=48"], "length=48 does not fit blocks of 128 tokens.* 32, 64"),
        (["mesh.data=3"], "wants 3 devices and there are 8"),
        (["mesh.data=1", "mesh.tensor=8"], "which mesh.tensor=8 does not divide"),
        (["mesh.layout=pmap", "mesh.fsdp=2"], "pmap is data parallel only"),
        (["model.heads=3"], "width=32 is not divisible by heads=3"),
        (["objective.rate=1.5"], r"rate must be in \(0, 1\]"),
        (["evaluation.batches=0"], "evaluation.batches must be above 0"),
        (["checkpoint.keep=0"], "checkpoint.keep must be above 0"),
        (["profile=(5,2)"], "profile is a first and a last step"),
        (["--dryrun"], "There is no flag --dryrun; did you mean --dry-run"),
    ],
)
def test_mistyped(command, tmp_path, arguments, message):
    check(command(pretrain, *arguments), message)
    assert not (tmp_path / "run").exists()


def test_no_such_config(command, tmp_path):
    check(command(pretrain, "--config=configs/mlm_stdib.py"), "mlm_stdlib")
    check(command(pretrain, config=False), "Say which config to use")


# The data.


def test_corpus_that_is_not_prepared(command, tmp_path):
    nothing = ["data.corpus.source=None", f"data.corpus.path={tmp_path / 'nothing'}"]
    check(command(pretrain, *nothing), "nothing", "prepare")
    empty = ["data.corpus.source=TextFiles", f"data.corpus.source.glob={tmp_path}/*.nothing"]
    check(command(pretrain, *empty, f"data.corpus.path={tmp_path / 'other'}"), r"\*\.nothing")


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("harm", ["truncated", "deleted"])
def test_damaged_shard(command, own_corpus, tmp_path, split, harm):
    """Noticed before the first step, whichever split it is of."""
    shard = next(Path(own_corpus.path).glob(f"tokens-{split}*"))
    if harm == "deleted":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-100])
    words = "is missing" if harm == "deleted" else "bytes, not"
    check(command(pretrain, f"data.corpus.path={own_corpus.path}"), f"{shard.name}.* {words}", "experiments.prepare")
    assert not (tmp_path / "run").exists()


def test_a_shard_of_changed_bytes(command, own_corpus, tmp_path):
    """Of the right size; array_record finds it when it reads the place."""
    for shard in Path(own_corpus.path).glob("tokens-train*"):
        data = bytearray(shard.read_bytes())
        for at in range(1000, len(data), 2000):
            data[at] ^= 1
        shard.write_bytes(data)
    check(command(pretrain, f"data.corpus.path={own_corpus.path}"), "tokens-train.* is damaged", "--verify")


def test_tokenizer_of_another_data_set(command, own_corpus, tmp_path):
    smaller = chz.replace(own_corpus.tokenizer, vocab_size=390)
    other = chz.replace(own_corpus, path=str(tmp_path / "other"), tokenizer=smaller)
    prepare(other)
    manifest = json.loads((Path(own_corpus.path) / "manifest.json").read_text())
    model = shutil.copy(tmp_path / "other/tokenizer.model", own_corpus.path)
    path = [f"data.corpus.path={own_corpus.path}"]
    check(command(pretrain, *path), r"tokenizer\.model")
    # Even where the size is right.
    manifest["files"]["tokenizer.model"]["bytes"] = Path(model).stat().st_size
    (Path(own_corpus.path) / "manifest.json").write_text(json.dumps(manifest))
    check(command(pretrain, *path), r"tokenizer\.model is not the tokenizer that the data set .* was encoded with")
    # And a folder that was prepared with another tokenizer than the config asks for.
    check(command(pretrain, f"data.corpus.path={other.path}"), "tokenizer.vocab_size: 390 there, 400 asked for")


def test_no_text_to_validate_on(command, own_corpus, tmp_path):
    """Known before training, not after it."""
    glob = str(Path(own_corpus.source.glob))
    corpus = chz.replace(own_corpus, path=str(tmp_path / "whole"), validation_fraction=0.0, source=TextFiles(glob=glob))
    (tmp_path / "my_config.json").write_text(to_json(experiment(corpus)))
    prepare(corpus)
    check(command(pretrain), "has no split 'validation'", "validation_fraction")
    assert not (tmp_path / "run").exists()


# Checkpoints and workdirs.


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def largest(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_one_flipped_bit_falls_back(command, trained, copied):
    """Training goes on from the step before, says so, and ends as if nothing had been; nothing is deleted."""
    flip(largest(copied / "checkpoints/10"))
    expected = Checkpoints(trained("mlm").workdir / "checkpoints").restore(trained("mlm").run.abstract)[0]
    code, out, error = command(pretrain, config=False, workdir=copied)
    assert code == 0, error
    out = " ".join(out.split())
    assert re.search(r"checkpoints/10 is damaged \(the contents of .* have changed\); set aside; using 9", out)
    assert "Resuming from step 9 of 10" in out
    assert (copied / "checkpoints/10.damaged").is_dir()
    state = Checkpoints(copied / "checkpoints").restore(trained("mlm").run.abstract)[0]
    assert equal(state, expected)


def equal(a, b) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))


def test_a_damaged_checkpoint_that_was_asked_for(command, copied):
    flip(largest(copied / "checkpoints/9"))
    before = snapshot(copied)
    for main in (evaluate, generate):
        arguments = ["--text=a <mask>"] if main is generate else ["--batches=1"]
        result = command(main, "--step=9", *arguments, config=False, workdir=copied)
        check(result, "step 9: the contents of", "3, 6, 10")
    check(command(replay, "--step=10", "--checkpoint=9", config=False, workdir=copied), "step 9: the contents of")
    check(command(evaluate, "--step=5", config=False, workdir=copied), "no checkpoint of step 5 .* 3, 6, 9, 10")
    assert snapshot(copied) == before


def test_every_checkpoint_damaged(command, copied):
    for step in (3, 6, 9, 10):
        flip(largest(copied / f"checkpoints/{step}"))
    before = snapshot(copied)
    result = command(pretrain, config=False, workdir=copied)
    check(result, "No good checkpoint", "to start over, move .*checkpoints away")
    assert snapshot(copied) == before


def test_workdir_of_another_experiment(command, copied):
    before = snapshot(copied)
    changed = ["optimizer.peak_lr=0.5", "model.layers=3", "objective=CausalLM", "steps=10"]
    result = command(pretrain, *changed, config=False, workdir=copied)
    check(
        result,
        "holds another experiment",
        "optimizer.peak_lr: 0.003 there, 0.5 here",
        "model.layers: 2 there, 3 here",
        "objective: MLM there, CausalLM here",
        "Use another --workdir",
    )
    assert "steps" not in result[2].partition("\n")[2].partition("Use another")[0]
    assert snapshot(copied) == before


def test_checkpoint_of_another_model(command, copied):
    """A config.json that does not tell what is in the checkpoints."""
    result = command(evaluate, "model.width=48", "model.hidden=96", config=False, workdir=copied)
    check(result, "is of another model. Leaves that differ", r"params/body/embed/tokens: float32\[512, 32\] there")
    check(
        command(
            evaluate,
            "objective=CausalLM",
            "model=GPT",
            "model.layers=2",
            "model.width=32",
            "model.heads=2",
            "model.hidden=64",
            "model.max_length=64",
            config=False,
            workdir=copied,
        ),
        "missing there",
    )


def test_no_checkpoint_yet(command, tmp_path):
    for main, arguments in ((evaluate, []), (generate, ["--text=a <mask>"])):
        check(command(main, *arguments), "no checkpoint in .*run/checkpoints")
    assert not (tmp_path / "run").exists()


def test_where_nothing_can_be_written(command, tmp_path):
    """Below a file: what root may not do either."""
    (tmp_path / "file").write_text("mine")
    check(command(pretrain, workdir=tmp_path / "file/run"), "Cannot write to .*file/run: Not a directory")
    assert (tmp_path / "file").read_text() == "mine"


def test_no_space_for_a_checkpoint(command, copied, monkeypatch):
    """The disk fills up while a run goes on; what was saved before is whole, and the same command goes on later."""
    before = {name: data for name, data in snapshot(copied).items() if name.startswith("checkpoints")}
    write = Path.write_text

    def full(path, text, *arguments, **keywords):
        if path.name == "manifest.json":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, text, *arguments, **keywords)

    monkeypatch.setattr(Path, "write_text", full)
    result = command(pretrain, "steps=12", config=False, workdir=copied)
    check(result, "No space left on device", "same command again")
    after = snapshot(copied)
    assert {name: after.get(name) for name in before} == before
    monkeypatch.undo()
    assert Checkpoints(copied / "checkpoints").steps() == [3, 6, 9, 10]


# Questions that a checkpoint cannot answer.


def test_generate(command, trained):
    workdir = dict(config=False, workdir=trained("mlm").workdir)
    check(command(generate, **workdir), "Say what to start from")
    check(command(generate, "--text=no mask here", **workdir), "there is no <mask> in 'no mask here'")
    check(command(generate, "--text=" + "word " * 100 + "<mask>", **workdir), "model's 64 positions")
    check(command(generate, "--text=a <mask>", "--top=0", **workdir), "at least 1")
    check(command(generate, "--text=a <mask>", "--top=five", **workdir), "five")
    workdir = dict(config=False, workdir=trained("causal").workdir)
    check(command(generate, "--text=a", "--tokens=99", **workdir), "model's 64 positions")
    check(command(generate, "--text=a", "--top-p=2", **workdir), r"top_p is a share in \(0, 1\]")
    check(command(generate, "--text=a", "--samples=0", **workdir), "at least 1")
    check(command(generate, "--text=", **workdir), "prompt is empty")


def test_generate_from_an_objective_that_teaches_neither(command, tiny_corpus, tmp_path):
    """Said as such, not as if the text were wrong."""
    code, _, error = command(pretrain, "objective=RTD", "steps=1")
    assert code == 0, error
    for text in ("a", "a <mask>"):
        answer = command(generate, f"--text={text}", config=False)
        check(answer, "RTD teaches a model neither to fill masks nor to sample")


def test_evaluate_and_replay(command, trained):
    workdir = dict(config=False, workdir=trained("mlm").workdir)
    check(command(evaluate, "--batches=0", **workdir), "at least 1")
    check(command(evaluate, "--split=test", **workdir), "train")
    check(command(replay, **workdir), "--step")
    check(command(replay, "--step=11", **workdir), "the run has steps 1 to 10")
    check(command(replay, "--step=3", "--checkpoint=4", **workdir), "no checkpoint of step 4 .* 3, 6, 9, 10")


def test_a_workdir_that_is_none(command, tmp_path):
    check(command(evaluate, config=False, workdir=tmp_path / "nothing"), "nothing")
