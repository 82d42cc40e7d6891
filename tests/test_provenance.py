"""What a run records of itself: leaves, batches, code and machine; across kills, resumes and older workdirs."""

import dataclasses
import hashlib
import json
import shutil

import chz
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptjax import provenance
from ptjax.config import UserError
from ptjax.data.pipeline import Shard
from ptjax.models import BERT
from ptjax.objectives import MLM
from ptjax.partition import MeshConfig, make_mesh
from ptjax.provenance import Provenance, Record, code_hashes, leaf_hashes, read_batches
from ptjax.train import Checkpointing, Run, train
from tests.small import SIZE, experiment

LEAVES = {
    "body": {"kernel": np.arange(48, dtype=np.float32).reshape(8, 6), "zeros": np.zeros((8, 6), np.float32)},
    "half": np.arange(8, dtype=jnp.bfloat16),
    "count": np.int32(3),
}


def hashes(leaves) -> dict[str, str]:
    return {path: leaf["hash"] for path, leaf in leaf_hashes(leaves, make_mesh(MeshConfig())).items()}


def test_the_hash_of_a_leaf_is_of_its_bits_and_places():
    mesh = make_mesh(MeshConfig())
    found = leaf_hashes(LEAVES, mesh)
    assert found["body/kernel"]["shape"] == [8, 6] and found["half"]["dtype"] == "bfloat16"
    assert len({leaf["hash"] for leaf in found.values()}) == 4
    assert all(len(leaf["hash"]) == 32 for leaf in found.values())
    swapped, flipped = LEAVES["body"]["kernel"].copy(), LEAVES["body"]["kernel"].copy()
    swapped[0], swapped[1] = LEAVES["body"]["kernel"][1], LEAVES["body"]["kernel"][0]
    flipped.view(np.uint32)[3, 3] ^= 1
    minus = LEAVES["body"]["zeros"].copy()
    minus[0, 0] = -0.0
    others = hashes(LEAVES | {"body": {"kernel": swapped, "zeros": minus}})
    assert others["body/kernel"] != found["body/kernel"]["hash"] and others["body/zeros"] != found["body/zeros"]["hash"]
    assert others["half"] == found["half"]["hash"]
    assert hashes(LEAVES | {"body": {"kernel": flipped, "zeros": minus}})["body/kernel"] not in (
        found["body/kernel"]["hash"],
        others["body/kernel"],
    )
    # known answers: records of years ago can be held against those of today
    assert found["body/kernel"]["hash"] == "dabcff9d4d44bb2c474aad60c9c8faaa"


def test_the_hash_of_a_leaf_is_the_same_however_it_is_divided():
    whole = hashes(LEAVES)
    mesh = make_mesh(MeshConfig(data=2, tensor=4))
    spec = jax.sharding.PartitionSpec("tensor", "data")
    divided = jax.device_put(LEAVES["body"], jax.sharding.NamedSharding(mesh, spec))
    found = leaf_hashes({"body": divided}, mesh)
    assert {path: leaf["hash"] for path, leaf in found.items()} == {p: whole[p] for p in ("body/kernel", "body/zeros")}


@pytest.fixture(scope="module")
def tiny(tiny_corpus, tmp_path_factory):
    """(run, workdir) of four steps, the second saved."""
    model = BERT(**SIZE | dict(layers=1, width=16, hidden=32))
    checkpoint = Checkpointing(minutes=None, best=None, keep_steps=(2,))
    run = Run.open(experiment(tiny_corpus, model=model, steps=4, checkpoint=checkpoint), jax.devices()[:1])
    workdir = tmp_path_factory.mktemp("provenance") / "run"
    train(run, workdir, on_event=str)
    return run, workdir


def resumed(tiny, to):
    """A copy that stands at step 2."""
    shutil.copytree(tiny[1], to)
    shutil.rmtree(to / "checkpoints" / "4")
    return to


def test_the_record_of_a_run(tiny):
    run, workdir = tiny
    record = Provenance.read(workdir)
    assert record.tokenizer == run.tokenizer.hash and record.data == run.pipeline.fingerprint
    assert record.initial == leaf_hashes(run.init().params, run.mesh) and "body/embed/tokens" in record.initial
    assert record.branched is None and record.begun_with is None
    [part] = record.parts
    assert part["from_step"] == 0 and part["jax"] == jax.__version__ and part["device"] == "cpu x1"
    assert part["processes"] == 1 and part["code"].keys() == {"ptjax"}
    rows = [run.pipeline.row_ids(16 * step, 16 * step + 16).astype("<i4") for step in range(4)]
    assert read_batches(workdir) == [hashlib.blake2b(x.tobytes(), digest_size=8).hexdigest() for x in rows]
    assert len(set(read_batches(workdir))) == 4
    other = Run.open(chz.replace(run.experiment, seed=1), jax.devices()[:1])
    others = leaf_hashes(other.init().params, run.mesh)
    drawn = "body/embed/tokens"
    assert others[drawn]["hash"] != record.initial[drawn]["hash"]


def test_a_resume_adds_a_part_where_something_is_another(tiny, tmp_path, monkeypatch):
    run, _ = tiny
    workdir = resumed(tiny, tmp_path / "run")
    train(run, workdir, on_event=str)
    assert Provenance.read(workdir) == Provenance.read(tiny[1]) and read_batches(workdir) == read_batches(tiny[1])
    monkeypatch.setattr(provenance, "_own_code", lambda: "other")
    workdir = resumed(tiny, tmp_path / "changed")
    train(run, workdir, on_event=str)
    parts = Provenance.read(workdir).parts
    assert [(part["from_step"], part["code"]["ptjax"] == "other") for part in parts] == [(0, False), (2, True)]
    # and back before the change
    monkeypatch.undo()
    Record.resume(run, workdir, 1).close()
    assert Provenance.read(workdir).parts == parts[:1] and read_batches(workdir) == read_batches(tiny[1])[:1]


def test_a_run_from_before_there_were_records(tiny, tmp_path):
    run, _ = tiny
    workdir = resumed(tiny, tmp_path / "old")
    for name in ("provenance.json", "batches.txt"):
        (workdir / name).unlink()
    train(run, workdir, on_event=str)
    record = Provenance.read(workdir)
    assert record.initial == {} and [part["from_step"] for part in record.parts] == [2]
    assert read_batches(workdir) == ["?", "?", *read_batches(tiny[1])[2:]]


def test_what_is_damaged_or_another(tiny, tmp_path):
    run, _ = tiny
    workdir = resumed(tiny, tmp_path / "run")
    record = Provenance.read(workdir)
    dataclasses.replace(record, tokenizer="0" * 64).write(workdir)
    with pytest.raises(
        UserError, match=r"began with another tokenizer than now stands in .*: 0{16} there, \w{16} here"
    ):
        train(run, workdir, on_event=str)
    (workdir / "provenance.json").write_text(json.dumps(dataclasses.asdict(record))[:-9])
    with pytest.raises(UserError, match="provenance.json is damaged"):
        Provenance.read(workdir)
    (workdir / "provenance.json").unlink()
    with pytest.raises(UserError, match="has no provenance.json: its run keeps no record"):
        Provenance.read(workdir)


def test_each_process_checks_its_own_rows(tiny, tmp_path):
    pipeline = tiny[0].pipeline
    record = Record(pipeline, Shard(1, 2), tmp_path, ())
    rows = pipeline.row_ids(16, 32)
    record.add(1, rows[8:])
    with pytest.raises(RuntimeError, match="step 2 was given other rows"):
        record.add(1, rows[:8])
    record.close()
    assert read_batches(tmp_path) == read_batches(tiny[1])[1:2]  # of all rows, whoever reads them


@chz.chz
class Mine(MLM):
    """A class of a user's."""


def test_code_of_a_user_is_hashed_by_its_file(tiny):
    e = tiny[0].experiment
    own = code_hashes(e)
    mine = code_hashes(chz.replace(e, objective=Mine()))
    assert mine == own | {__name__: hashlib.sha256(open(__file__, "rb").read()).hexdigest()}
