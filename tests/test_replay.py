"""Every objective that ships, as replay and the end of a run show it. Which ones there are, `ptjax.objectives` says."""

import io
import re

import chz
import jax
import numpy as np
import pytest

from experiments import show
from ptjax import objectives
from ptjax.data.pipeline import batch_at
from ptjax.generate import Predictor
from ptjax.models import GPT, XLNet
from ptjax.objectives import MLM, UL2, CausalLM, Mixed, Objective, Part, Phase, SpanCorruption
from ptjax.partition import MeshConfig
from ptjax.replay import Reader
from ptjax.train import Run
from tests.small import SIZE, experiment

SETTINGS = {
    "Mixed": dict(mixture=(Part(objective=MLM()), Part(objective=UL2()))),
    "Schedule": dict(phases=(Phase(objective=SpanCorruption()), Phase(objective=MLM(unit="span")))),
}
NAMES = [n for n in objectives.__all__ if isinstance(getattr(objectives, n), type)]
NAMES = [n for n in NAMES if issubclass(getattr(objectives, n), Objective) and n != "Objective"]


def opened(corpus, objective: Objective) -> Run:
    model = (XLNet if "two streams" in objective.needs else GPT)(**SIZE | dict(layers=1))
    e = experiment(corpus, objective=objective, model=model, mesh=MeshConfig())
    return Run.open(e, jax.devices()[:1])


@pytest.fixture(scope="module")
def asked(tiny_corpus):
    """asked(objective): (reader, {name: rows of its first step})."""

    def asked(objective: Objective):
        run = opened(tiny_corpus, objective)
        learner, state = run.learner_at(0), run.abstract.replace(step=np.int32(0), seed=np.uint32(0))
        batch = jax.device_get(jax.jit(lambda batch: learner.corrupted(state, batch))(batch_at(run.pipeline, 0)))
        questions = learner.objective.questions(learner.net, batch).items()
        return Reader(run.tokenizer, run.learner.vocab), {name: rows for name, (*_, rows) in questions}

    return asked


@pytest.mark.parametrize("name", NAMES)
def test_what_was_asked_can_be_read(asked, name):
    """As many brackets as predictions, in text that is otherwise what the model was shown."""
    reader, questions = asked(getattr(objectives, name)(**SETTINGS.get(name, {})))
    assert len(questions) == (2 if name == "Mixed" else 1)
    for rows in questions.values():
        marked = 0
        for at in np.flatnonzero(rows["index"] >= 0):
            text = reader.row(rows, at)
            if "target" in rows:
                assert text.count("\nsource: ") == text.count("\ntarget: <extra_0>") == 1
                marked += 1
                continue
            brackets = lambda ids: reader.text(ids).count("[")
            shown = brackets(rows["tokens"][at])
            predicted = 0
            if "positions" in rows:
                predicted = int((rows["weights"][at] > 0).sum())
            if "hidden" in rows:
                predicted = int(rows["hidden"][at].sum())
            assert text.count("[") >= predicted and (predicted or text.count("[") == shown)
            marked += predicted
        assert marked >= 5 or not {"positions", "hidden", "target"} & rows.keys()


def test_marks(asked):
    """A row made by hand, with each kind of mark."""
    reader, _ = asked(CausalLM())
    vocab, encode = reader.tokenizer.vocab, reader.tokenizer.encode
    piece = lambda token: reader.tokenizer.decode([token])
    a, b, c, d = encode("the value of objects")[:4].tolist()
    pads = [vocab.pad_id] * 3
    row = lambda **arrays: {name: np.asarray([array]) for name, array in arrays.items()}
    masked = row(
        tokens=[a, vocab.mask_id, d, d, *pads],
        original=[a, b, c, d, *pads],
        positions=[3, 1, 2, 0],
        weights=[1.0, 1.0, 1.0, 0.0],
        index=7,
        time=0.25,
    )
    expected = f"time 0.25\n{piece(a)}[{piece(b)}><mask>][{piece(c)}>{piece(d)}][{piece(d)}]<pad>"
    assert reader.row(masked, 0) == expected
    order = row(tokens=[a, b, vocab.boundary_id], positions=[1, 0], weights=[1.0, 1.0], order=[2, 1, 0])
    assert reader.row(order, 0) == f"[{piece(a)} #2][{piece(b)} #1]<end>\n"
    prefix = row(tokens=[a, b, c, d], prefix=[True, True, False, True])
    assert reader.row(prefix, 0) == f"«{reader.text([a, b])}»{piece(c)}«{piece(d)}»"


def test_spans_put_back_are_the_text(asked):
    """By what is written alone: each sentinel of the source replaced by what follows it in the target."""
    reader, questions = asked(SpanCorruption(rate=0.3))
    rows, checked = questions[""], 0
    vocab = reader.tokenizer.vocab
    for at, original in enumerate(rows["original"]):
        if vocab.boundary_id in original or vocab.pad_id in original:
            continue  # documents of a row number their sentinels each for itself
        source, target = re.fullmatch(
            r"(?s).*?source: (.*?)(?:<pad>)*\ntarget: (.*?)(?:<pad>)*", reader.row(rows, at)
        ).groups()
        pieces = re.split(r"<extra_(\d+)>", target)
        spans = dict(zip(pieces[1::2], pieces[2::2]))
        assert re.sub(r"<extra_(\d+)>", lambda m: spans[m[1]], source) == reader.tokenizer.decode(original)
        checked += len(spans) > 2
    assert checked > 3


@pytest.mark.parametrize("name", NAMES)
def test_the_end_of_a_run_shows_what_the_model_can(tiny_corpus, name, monkeypatch):
    """An untrained one will do."""
    monkeypatch.setattr(show.console, "file", out := io.StringIO())
    run = opened(tiny_corpus, getattr(objectives, name)(**SETTINGS.get(name, {})))
    able = run.experiment.objective.abilities()
    state = run.init() if able else run.abstract
    show.examples(Predictor.of_state(run, state), run.experiment.data, count=2)
    assert ("five best guesses" in out.getvalue()) == ("fill" in able)
    assert ("how the model goes on" in out.getvalue()) == (able == ("sample",))
    assert len(out.getvalue().splitlines()) > 3 or not able


def test_a_mixture_hands_on_what_its_parts_can(tiny_corpus):
    """The same answers as the part alone has with the same parameters."""
    parts = (Part(objective=UL2()), Part(objective=CausalLM()))
    mixed = opened(tiny_corpus, Mixed(mixture=parts))
    predictor = Predictor.of_state(mixed, mixed.init())
    objective, net = predictor.require("sample")
    assert objective == CausalLM() and mixed.experiment.objective.abilities() == ("sample",)
    prompt = predictor.tokenizer.encode("The value")
    (text,) = predictor.sample([prompt], show.Sampling(temperature=0))
    alone = chz.replace(mixed.experiment, objective=CausalLM())
    (again,) = Predictor(alone, net, predictor.params, predictor.tokenizer).sample(
        [prompt], show.Sampling(temperature=0)
    )
    assert text.tolist() == again.tolist()
    # No further than rows of training go, although there are positions.
    assert len(text) <= mixed.experiment.data.length + 1 - len(prompt) < mixed.experiment.model.max_length - len(prompt)
