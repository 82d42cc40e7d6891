"""Checkpoints: what is saved comes back bit by bit, and what is damaged is never used."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import chz
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ptjax.checkpoint import Checkpoints, check_workdir, read_config, restore_params
from ptjax.config import Config, UserError, from_json, to_json
from ptjax.types import TrainState


def make_state(step=0, width=4, guard=True):
    """A train state with everything that is awkward to save: None, empty dicts, named tuples, masked nodes."""
    key = jax.random.fold_in(jax.random.key(0), step)
    params = {"body": {"layers": {"kernel": jax.random.normal(key, (2, width, 3)), "empty": {}}}}
    params["head"] = {"bias": jnp.arange(3.0) + step}
    mask = jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    tx = optax.chain(optax.masked(optax.trace(0.9), mask), optax.scale_by_adam(), optax.identity())
    return TrainState(
        step=jnp.int32(step),
        seed=jnp.uint32(7),
        hyper={"learning_rate": jnp.float32(1e-3)},
        params=params,
        opt_state=jax.tree.map(lambda leaf: leaf + step, tx.init(params)),
        guard={"norm": jnp.float32(jnp.nan), "skipped": jnp.int32(step)} if guard else None,
    )


def abstract(state):
    return jax.eval_shape(lambda: state)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert x.dtype == y.dtype and isinstance(x, jax.Array)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.fixture
def events():
    return []


@pytest.fixture
def checkpoints(tmp_path, events):
    checkpoints = Checkpoints(tmp_path / "checkpoints", on_event=events.append)
    yield checkpoints
    checkpoints.close()


def save(checkpoints, *steps, **metrics):
    for step in steps:
        checkpoints.save(step, make_state(step), config_json='{"a": 1}', metrics=metrics)
    checkpoints.wait()


def flip_a_bit(path, bit=0):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1 << bit
    path.write_bytes(data)


def test_the_last_state_comes_back_bitwise(checkpoints):
    assert checkpoints.restore(abstract(make_state())) is None
    save(checkpoints, 1, 2)
    state, step = checkpoints.restore(abstract(make_state()))
    assert step == 2 and checkpoints.steps() == [1, 2]
    assert_same(state, make_state(2))
    state, step = checkpoints.restore(abstract(make_state()), step=1)
    assert step == 1
    assert_same(state, make_state(1))
    assert json.loads((checkpoints.folder / "2" / "config.json").read_text()) == {"a": 1}


def test_buffers_may_be_donated_when_save_returns(checkpoints):
    advance = jax.jit(lambda tree: jax.tree.map(lambda x: x * 2 + 1, tree), donate_argnums=0)
    state = advance({"x": jnp.arange(2_000_000.0), "y": jnp.ones((1000, 1000))})
    expected = jax.tree.map(lambda x: np.array(x, copy=True), state)
    checkpoints.save(1, state, config_json="{}")
    for _ in range(5):
        state = advance(state)
    jax.block_until_ready(state)
    restored, _ = checkpoints.restore(abstract(state))
    jax.tree.map(np.testing.assert_array_equal, restored, expected)


def test_saving_a_step_twice_changes_nothing(checkpoints):
    save(checkpoints, 1)
    before = {path: path.read_bytes() for path in checkpoints.folder.rglob("*") if path.is_file()}
    checkpoints.save(1, make_state(99), config_json="{}")
    checkpoints.wait()
    assert before == {path: path.read_bytes() for path in checkpoints.folder.rglob("*") if path.is_file()}


def test_keeps_the_latest_and_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, best="loss")
    for step, loss in enumerate([5.0, 1.0, float("nan"), 3.0, 2.0], start=1):
        checkpoints.save(step, make_state(step), config_json="{}", metrics={"loss": loss})
    checkpoints.save(6, make_state(6), config_json="{}")
    checkpoints.close()
    assert checkpoints.steps() == [2, 5, 6]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "5", "6"]


def test_one_flipped_bit_in_any_file_is_found(checkpoints, events):
    save(checkpoints, 1)
    first = checkpoints.folder / "1"
    names = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
    assert len(names) > 8
    step = 1
    for name in names:
        step += 1
        save(checkpoints, step)
        files = [path for path in (checkpoints.folder / str(step)).rglob("*") if path.is_file()]
        # Orbax names the files of arrays by random numbers: take the one in the same folder.
        (victim, *_) = [p for p in files if p == checkpoints.folder / str(step) / name] or [
            p for p in files if p.parent == (checkpoints.folder / str(step) / name).parent
        ]
        if victim.stat().st_size == 0:
            continue
        flip_a_bit(victim)
        events.clear()
        state, used = checkpoints.restore(abstract(make_state()))
        assert_same(state, make_state(used))
        if victim.name not in ("_CHECKPOINT_METADATA", "commit_success.txt"):  # written last, read by nobody
            assert used != step and len(events) == 1, victim
            assert f"{step} is damaged" in events[0] and f"using {used}" in events[0]
            assert (checkpoints.folder / f"{step}.damaged").is_dir() and step not in checkpoints.steps()
            save(checkpoints, step)  # the same step is saved again
            assert checkpoints.restore(abstract(make_state()))[1] == step


@pytest.mark.parametrize("harm", ["truncate", "delete", "no manifest", "empty manifest"])
def test_falls_back_to_the_last_good_step(checkpoints, events, harm):
    save(checkpoints, 1, 2)
    folder = checkpoints.folder / "2"
    victim = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    if harm == "truncate":
        os.truncate(victim, victim.stat().st_size // 2)
    elif harm == "delete":
        victim.unlink()
    elif harm == "no manifest":
        (folder / "manifest.json").unlink()
    else:
        (folder / "manifest.json").write_text("")
    state, step = checkpoints.restore(abstract(make_state()))
    assert step == 1 and len(events) == 1
    assert_same(state, make_state(1))


def test_no_good_step_is_an_error_and_nothing_is_lost(checkpoints):
    save(checkpoints, 1, 2)
    for step in (1, 2):
        flip_a_bit(checkpoints.folder / str(step) / "_METADATA")
    before = sorted(checkpoints.folder.rglob("*"))
    for _ in range(2):
        with pytest.raises(UserError, match=r"No good checkpoint.*step 2: .*_METADATA.*step 1: .*move .* away"):
            checkpoints.restore(abstract(make_state()))
    assert sorted(checkpoints.folder.rglob("*")) == before


def test_a_step_asked_for_is_that_step_or_an_error(checkpoints):
    save(checkpoints, 1, 2)
    flip_a_bit(checkpoints.folder / "2" / "_METADATA")
    with pytest.raises(UserError, match="others there: 1"):
        checkpoints.restore(abstract(make_state()), step=2)
    with pytest.raises(UserError, match="no checkpoint of step 3.*there are: 1, 2"):
        checkpoints.restore(abstract(make_state()), step=3)


def test_another_model_is_named_leaf_by_leaf(checkpoints, events):
    save(checkpoints, 1)
    other = make_state(width=8, guard=False)
    other.params["head"]["kernel"] = jnp.zeros((2, 2))
    with pytest.raises(UserError) as error:
        checkpoints.restore(abstract(other))
    message = str(error.value)
    assert "params/body/layers/kernel: float32[2, 4, 3] there, float32[2, 8, 3] here" in message
    assert "params/head/kernel: missing there, float32[2, 2] here" in message
    assert "guard/norm: float32[] there, missing here" in message
    assert checkpoints.steps() == [1] and not events  # nothing is wrong with the checkpoint


def test_body_only(checkpoints):
    save(checkpoints, 1, 2)
    wanted = abstract(make_state().params)
    params = restore_params(checkpoints.folder, wanted)
    assert_same(params, {"body": make_state(2).params["body"]})
    assert_same(restore_params(checkpoints.folder, wanted, step=1, only=("body", "head")), make_state(1).params)
    wanted["body"]["pooler"] = jax.ShapeDtypeStruct((2,), jnp.float32)
    with pytest.raises(UserError, match=r"params/body/pooler: missing there"):
        restore_params(checkpoints.folder, wanted)
    with pytest.raises(UserError, match="no checkpoint"):
        restore_params(checkpoints.folder / "elsewhere", wanted)


def test_reading_the_body_leaves_damage_where_it_is(checkpoints, events):
    save(checkpoints, 1, 2)
    flip_a_bit(checkpoints.folder / "2" / "_METADATA")
    params = restore_params(checkpoints.folder, abstract(make_state().params), on_event=events.append)
    assert_same(params, {"body": make_state(1).params["body"]})
    assert len(events) == 1 and (checkpoints.folder / "2").is_dir()


ON_ANOTHER_MESH = """
import sys, jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P, Mesh
from ptjax.checkpoint import Checkpoints, restore_params
mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "fsdp"))
def place(x, spec): return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))
def host(shape): return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
abstract = {"params": {"body": {"w": place(host((8, 4)), P("fsdp", "data"))}, "head": {"b": place(host(4), P())}}}
checkpoints = Checkpoints(sys.argv[1])
state, step = checkpoints.restore(abstract)
body = restore_params(sys.argv[1], abstract["params"])["body"]
for got, want in [(state["params"]["body"]["w"], (8, 4)), (body["w"], (8, 4)), (state["params"]["head"]["b"], (4,))]:
    assert len(got.sharding.device_set) == 8, got.sharding
    np.testing.assert_array_equal(np.asarray(got), host(want))
assert state["params"]["body"]["w"].addressable_shards[0].data.shape == (2, 2)
checkpoints.save(step + 1, state, config_json="{}")
checkpoints.close()
"""


def run(script, *arguments, devices=1, **kwargs):
    flags = f"--xla_force_host_platform_device_count={devices}"
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": path}
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)], env=environment, **kwargs)


def test_to_another_mesh_and_back(checkpoints):
    host = lambda *shape: np.arange(np.prod(shape), dtype=np.float32).reshape(shape)  # noqa: E731
    state = {"params": {"body": {"w": jnp.asarray(host(8, 4))}, "head": {"b": jnp.asarray(host(4))}}}
    checkpoints.save(1, state, config_json="{}")
    checkpoints.wait()
    assert run(ON_ANOTHER_MESH, checkpoints.folder, devices=8).wait(60) == 0
    restored, step = checkpoints.restore(abstract(state))
    assert step == 2
    assert_same(restored, state)


TWO_PROCESSES = """
import sys, jax, numpy as np
from pathlib import Path
from jax.sharding import NamedSharding, PartitionSpec as P, Mesh
folder, port, process = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(process))
from ptjax.checkpoint import Checkpoints
sharding = NamedSharding(Mesh(np.array(jax.devices()), ("fsdp",)), P("fsdp"))
def state(step): return {"w": jax.make_array_from_callback((4, 2), sharding, lambda i: np.full((4, 2), step, "f")[i])}
events = []
checkpoints = Checkpoints(folder, keep=2, on_event=events.append)
for step in (1, 2, 2, 3, 4):
    checkpoints.save(step, state(step), config_json="{}")
checkpoints.wait()
if process == "0":
    (Path(folder) / "4" / "config.json").write_text("[]")
restored, step = checkpoints.restore(state(0))
assert step == 3, step
for shard in restored["w"].addressable_shards:
    np.testing.assert_array_equal(shard.data, np.full((2, 2), 3.0))
assert len(events) == (process == "0"), events
checkpoints.save(4, state(4), config_json="{}")
checkpoints.close()
"""


def test_two_processes_write_one_checkpoint(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [run(TWO_PROCESSES, tmp_path, port, process) for process in range(2)]
    assert [process.wait(100) for process in processes] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4", "4.damaged"]
    files = json.loads((tmp_path / "4" / "manifest.json").read_text())
    assert any("ocdbt.process_1" in name for name in files)  # the manifest covers what the other process wrote


SAVE_FOREVER = """
import sys, jax.numpy as jnp
from ptjax.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
for step in range(1, 10**6):
    checkpoints.save(step, {"step": jnp.int32(step), "x": jnp.full(3_000_000, step, jnp.float32)}, config_json="{}")
    print(step, flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.03])
def test_kill_during_a_save_leaves_the_earlier_steps_good(tmp_path, delay):
    process = run(SAVE_FOREVER, tmp_path, stdout=subprocess.PIPE, text=True)
    while int(process.stdout.readline()) < 4:
        pass
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    events = []
    checkpoints = Checkpoints(tmp_path, on_event=events.append)
    state = {"step": jnp.int32(0), "x": jnp.zeros(3_000_000)}
    restored, step = checkpoints.restore(abstract(state))
    assert step >= 3 and not events
    assert_same(restored, {"step": jnp.int32(step), "x": jnp.full(3_000_000, step, jnp.float32)})
    checkpoints.save(step + 1, restored, config_json="{}")
    checkpoints.close()
    assert all(path.name.isdecimal() for path in tmp_path.iterdir())  # leftovers of the kill are gone


def test_a_full_disk_is_one_clear_message(checkpoints):
    save(checkpoints, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match="Cannot write to .*checkpoints"):
            checkpoints.save(2, {"x": jax.random.normal(jax.random.key(0), (200_000,))}, config_json="{}")
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    state, step = checkpoints.restore(abstract(make_state()))
    assert step == 1
    save(checkpoints, 2)  # and once there is space, things go on
    assert checkpoints.steps() == [1, 2]


def test_a_folder_that_cannot_be_made_is_one_clear_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        Checkpoints(tmp_path / "file" / "checkpoints").save(1, make_state(), config_json="{}")
    with pytest.raises(UserError, match="Cannot write"):
        check_workdir(tmp_path / "file", Run())


@chz.chz
class Run(Config):
    """An experiment as far as `check_workdir` looks."""

    steps: int = 10
    seed: int = 0
    rate: float = 0.1
    logging: str = "often"


def test_a_workdir_belongs_to_one_experiment(tmp_path):
    workdir = tmp_path / "run"
    with pytest.raises(UserError, match="not the workdir of a run"):
        read_config(workdir)
    check_workdir(workdir, Run())
    assert from_json(read_config(workdir)) == Run()
    check_workdir(workdir, Run(steps=20, logging="seldom"))  # longer, and watched otherwise: the same run
    assert from_json(read_config(workdir)) == Run(steps=20, logging="seldom")
    check_workdir(workdir, Run(steps=20, rate=0.2))  # nothing has been saved: a first start that failed, mended
    check_workdir(workdir, Run(steps=20, logging="seldom"))
    committed = workdir / "checkpoints" / "5" / "manifest.json"
    committed.parent.mkdir(parents=True)
    committed.write_text("{}")
    with pytest.raises(UserError) as error:
        check_workdir(workdir, Run(steps=20, rate=0.2, seed=1))
    message = str(error.value)
    assert "rate: 0.1 there, 0.2 here" in message and "seed: 0 there, 1 here" in message and "steps" not in message
    assert from_json(read_config(workdir)) == Run(steps=20, logging="seldom")
    assert to_json(Run()) != read_config(workdir)
