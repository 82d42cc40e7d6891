"""Plans: for the devices that are here, for slices of TPUs where their compiler is, and what is said of mistakes."""

import dataclasses
import importlib.util
import json

import chz
import jax
import pytest

from experiments import plan as main
from experiments import show_plan
from ptjax.config import UserError, load
from ptjax.plan import advice, memory, plan, roofline
from ptjax.plan.chips import CHIPS, of_kind, slice_of
from ptjax.plan.cost import Collective, Cost, Work
from ptjax.plan.subject import Subject
from ptjax.train import Experiment
from tests.small import call

HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None
needs_libtpu = pytest.mark.skipif(not HAS_LIBTPU, reason="libtpu is not installed: pip install 'ptjax[plan]'")
SMALL = [
    "model.layers=2",
    "model.width=64",
    "model.heads=4",
    "model.hidden=128",
    "data.length=32",
    "data.batch_size=16",
]
SMALL += ["data.corpus.path=nowhere", "data.corpus.tokenizer.vocab_size=500", "model.unroll=False"]


def small(*overrides: str) -> Experiment:
    return load("configs/bert_mlm.py", [*SMALL, *overrides], Experiment)


@pytest.fixture(scope="module")
def here():
    return plan(small("mesh.data=2", "mesh.fsdp=4", "accumulation=2", "ema=0.99"))


# --- a plan for the devices that are here ---


def test_compiled_products_are_those_of_the_formula(here):
    """As the formula counts no attention of the head's few positions, and the compiler no product that it need not."""
    assert here.cost.flops * here.devices == pytest.approx(here.flops, rel=0.1)
    assert not here.cost.loops and not here.cost.kernels


def test_memory_is_what_the_mesh_divides(here):
    table = 4 * 64 * (512 + 512 + 2)  # of pieces, positions and types, which fsdp leaves whole
    assert here.memory["parameters"] == pytest.approx(table + (4 * here.parameters - table) / 4, rel=0.03)  # and biases
    assert here.memory["optimizer"] == pytest.approx(2 * here.memory["parameters"], rel=0.01)
    assert here.memory["average of parameters"] == here.memory["parameters"]
    assert here.memory["batch"] == 4 * (16 // 8) * (32 + 1)
    assert here.used == sum(here.memory.values()) and here.memory["temporaries"] > 0


def test_parameters_are_gathered_and_gradients_summed(here):
    over = {(t.kind, t.axes) for t in here.traffic}
    assert any(kind == "all-gather" and "fsdp" in axes for kind, axes in over)
    assert any(kind in ("all-reduce", "reduce-scatter") and "data" in axes for kind, axes in over)


def test_no_time_is_estimated_for_a_chip_that_is_not_in_the_table(here, capsys):
    assert here.chip is None and here.times is None and "step" not in here.as_json()
    show_plan.show(here)
    assert "the peaks of a cpu are not in the table" in capsys.readouterr().out


def test_the_main_writes_what_it_shows(here, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(main, "plan", lambda experiment, topology: here)
    file = tmp_path / "plan.json"
    assert call(main, "--config=configs/bert_mlm.py", f"--json={file}", workdir=False) == 0
    written = json.loads(file.read_text())
    assert written["used"] == here.used and written["compiled"]["flops"] == here.cost.flops
    assert "all-gather" in capsys.readouterr().out
    assert call(main, "--config=configs/bert_mlm.py", "--json=-", workdir=False) == 0
    assert json.loads(capsys.readouterr().out) == written


def test_a_prepared_corpus_says_how_many_pieces_there_are(tiny_corpus):
    experiment = chz.replace(small(), data=chz.replace(small().data, corpus=tiny_corpus))
    assert Subject.open(experiment, jax.devices()).learner.vocab.size == 400


# --- chips, and time at best ---


@pytest.mark.parametrize("name, chips", [("v5e:4x4", 16), ("v5p:8x16x16", 2048), ("v4:2x2x2", 8), ("v6e:1x1", 1)])
def test_slices(name, chips):
    chip, sides = slice_of(name)
    assert chip is CHIPS[name[:3].rstrip(":")] and len(sides) == chip.axes
    product = 1
    for side in sides:
        product *= side
    assert product == chips and of_kind(chip.kind) is chip


@pytest.mark.parametrize(
    "topology, said",
    [
        ("v9:2x2", "there is no chip 'v9'; there are v4, v5e, v5p, v6e"),
        ("v5e", "in 2 dimensions, as in v5e:4x4"),
        ("v5e:4x4x4", "in 2 dimensions, as in v5e:4x4"),
        ("v5p:axbxc", "in 3 dimensions, as in v5p:4x4x4"),
        ("v5p:0x4x4", "in 3 dimensions"),
        ("v5e:32x32", "1,024 chips, and a pod of v5e has 256"),
        ("v5e:3x4", "the first two sides are even"),
    ],
)
def test_what_can_be_no_slice(topology, said, capsys):
    code = call(main, "--config=configs/bert_mlm.py", f"--topology={topology}", workdir=False)
    error = capsys.readouterr().err
    assert code == 2 and said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "overrides, said",
    [
        (("mesh.fsdp=3",), "wants a multiple of 3 devices and there are 8"),
        (("data.batch_size=10",), "use a multiple of 8"),
        (("model.heads=2", "mesh.tensor=4"), "choose another mesh.tensor"),
        (("mesh.layout=pmap", "mesh.data=8"), "plan with mesh.layout=jit"),
    ],
)
def test_what_does_not_fit_the_mesh(overrides, said):
    with pytest.raises(UserError, match=said):
        plan(small(*overrides))


def test_without_a_corpus_the_config_says_how_many_pieces_there_are():
    assert Subject.open(small(), jax.devices()).learner.vocab.size == 500
    imported = load("configs/bert_mlm.py", ["data.corpus.tokenizer=Imported", "data.corpus.tokenizer.path=gone"])
    with pytest.raises(UserError, match="gone"):
        plan(imported)


def test_a_missing_compiler_is_named(monkeypatch, capsys):
    def gone(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", gone)
    assert call(main, "--config=configs/bert_mlm.py", "--topology=v5e:4x4", workdir=False) == 2
    assert "pip install 'ptjax[plan]'" in capsys.readouterr().err


@dataclasses.dataclass(frozen=True)
class Device:
    coords: tuple[int, int, int]


TORUS = [Device((x, y, 0)) for x in range(4) for y in range(16)]


def test_a_ring_is_twice_as_fast_as_a_line_and_two_axes_add_up():
    chip = CHIPS["v5e"]  # whose axes are rings where they are whole, which is 16 long
    line, ring, both = [0, 16, 32, 48], range(16), range(64)
    speed = lambda group: roofline.bandwidth(list(group), chip, TORUS) / chip.link
    assert (speed(line), speed(ring), speed(both)) == (1, 2, 3)
    gather = Collective("all-gather", "", 1, 64e9, tuple(ring))
    assert roofline.seconds(gather, chip, TORUS) == pytest.approx(15 / 16 * 64e9 / (2 * chip.link))
    reduce = dataclasses.replace(gather, kind="all-reduce")
    assert roofline.seconds(reduce, chip, TORUS) == pytest.approx(2 * roofline.seconds(gather, chip, TORUS))


def test_instructions_run_one_after_another_and_collectives_beside_them_or_not():
    chip = CHIPS["v5p"]
    products, copies = Work("", 3, chip.flops, 0.0), Work("", 2, 0.0, chip.hbm_bandwidth)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    t = roofline.times(Cost((products, copies), ()), chip, mesh)
    assert (t.compute, t.memory, t.work) == pytest.approx((3, 2, 5))
    t = dataclasses.replace(t, interconnect=7.0)
    assert (t.overlapped, t.exposed) == pytest.approx((7, 12))


# --- what does not fit ---

MESSAGES = {
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (32.84G) exceeds "
    "available HBM (15.75G).": memory.Exhausted(32.84 * 2**30, 15.75 * 2**30, "temporaries"),
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 18.03G of 15.75G "
    "hbm. Exceeded hbm capacity by 2.28G.": memory.Exhausted(18.03 * 2**30, 15.75 * 2**30, "all"),
    "INVALID_ARGUMENT: something else": None,
}


@pytest.mark.parametrize("message", MESSAGES)
def test_what_the_compiler_says_of_memory_is_understood(message):
    assert memory.Exhausted.read(message) == MESSAGES[message]


@pytest.fixture(scope="module")
def subject():
    return Subject.open(small("data.batch_size=256", "mesh.fsdp=2"), jax.devices())


def test_less_is_kept_the_more_is_computed_again(subject):
    kept = {policy: advice._residuals(subject, policy) for policy in advice.REMAT}
    assert kept["none"] > kept["dots"] > kept["full"] > 0
    # Recomputed in full, a layer keeps its input; the head and the embeddings keep what they keep.
    assert kept["full"] < 0.5 * kept["none"]


def test_suggestions_fit_and_the_cheapest_come_first(subject):
    room = 100 * 2**20
    found = advice.suggest(subject, temporaries=2 * room, available=room)
    assert found and all(s.bytes <= room for s in found)
    assert found[0].overrides == ("accumulation=4",)
    assert ("model.remat=full",) in [s.overrides for s in found]
    for s in found:  # they can be typed as they are
        Subject.open(small("data.batch_size=256", "mesh.fsdp=2", *s.overrides), jax.devices())


def test_where_nothing_fits_that_is_said(subject, here):
    assert advice.suggest(subject, temporaries=2**40, available=2**20) == ()
    lost = dataclasses.replace(here, fits=False, available=2.0**20, suggestions=())
    assert "take more chips" in show_plan.too_large(lost)


def test_a_step_that_is_too_large_is_one_line_with_numbers(here, subject, monkeypatch, capsys):
    ways = advice.suggest(subject, temporaries=2 * 2**30, available=2**30)
    lost = dataclasses.replace(
        here, fits=False, available=2.0**30, memory=here.memory | {"temporaries": 2 * 2**30}, suggestions=ways
    )
    monkeypatch.setattr(main, "plan", lambda experiment, topology: lost)
    assert call(main, "--config=configs/bert_mlm.py", workdir=False) == 2
    error = capsys.readouterr().err
    assert (
        error.count("\n") == 1 and "2.0 of them temporaries), and has 1.00" in error and ways[0].overrides[0] in error
    )


# --- for TPUs ---

LARGE = {
    "BERT-large": ["configs/bert_mlm.py:size=large", "data.batch_size=64", "data.corpus.tokenizer.vocab_size=30522"]
    + ["data.length=128"],
    "Llama 2, 7B": ["configs/llama_causal.py:size=llama2-7B", "data.batch_size=16", "accumulation=1", "mesh.fsdp=16"]
    + ["data.length=512", "model.remat=full", "data.corpus.tokenizer.vocab_size=32000"],
}


@needs_libtpu
@pytest.mark.parametrize("name", LARGE)
def test_published_sizes_are_planned_for_tpus(name):
    config, *overrides = LARGE[name]
    overrides += ["model.dtype=bfloat16", "data.corpus.path=nowhere", "model.dropout=0", "model.attention_dropout=0"]
    made = plan(load(config, overrides, Experiment), "v5e:4x4")
    assert made.fits and made.used < made.available
    assert made.devices == 16 and made.chip is CHIPS["v5e"]
    # Layers are in a loop: the compiler's own count would be a twentieth. Splash does not say what it computes: its
    # products are missing, and named.
    experiment = load(config, overrides, Experiment)
    model, data = experiment.model, experiment.data
    attention = 3 * 4 * data.length**2 * model.width * model.layers * data.batch_size if made.cost.kernels else 0
    once = sum(work.times * work.flops for work in made.cost.work if not work.again)
    assert 16 * once == pytest.approx(made.flops - attention, rel=0.02)
    assert (made.cost.flops > 1.2 * once) == (model.remat == "full")
    assert not made.cost.loops
    assert {t.kind for t in made.traffic} & {"all-reduce", "reduce-scatter"}
    assert 0 < made.mfu(made.times.exposed) <= made.mfu(made.times.overlapped) < 1


@needs_libtpu
def test_a_step_too_large_for_tpus_says_what_would_fit():
    overrides = ["data.corpus.path=nowhere", "data.length=512", "data.batch_size=4096", "model.layers=2"]
    made = plan(load("configs/bert_mlm.py:size=large", overrides, Experiment), "v5e:2x2")
    assert not made.fits and made.available == pytest.approx(15.75 * 2**30)
    assert made.used > made.available and made.cost is None
    assert any("accumulation" in override for s in made.suggestions for override in s.overrides)
