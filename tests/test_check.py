"""Each law of `ptjax.check` catches an objective, or a net, that breaks it; `experiments.check` says so."""

import dataclasses
import functools

import chz
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import check as main
from ptjax import check
from ptjax.check.result import at_least, at_most, skipped, worst
from ptjax.check.subject import LENGTH, RandomStream, small
from ptjax.config import UserError
from ptjax.data.tokenizers import VocabSpec
from ptjax.models import BERT, GPT, DeBERTa, Llama, ModernBERT
from ptjax.models.heads import LanguageHead, LanguageModel
from ptjax.objectives import MLM, CausalLM, Mixed, Part
from ptjax.objectives.base import packed_input, segments_of
from ptjax.partition import active_shards
from tests.contracts import cases
from tests.small import call

SIZE = dict(layers=1, width=16, heads=2, hidden=32)


def subject(objective, body=BERT) -> check.Subject:
    """As `check` looks at it, with one narrow layer: less to compile."""
    experiment = check.small(cases.experiment(objective, body()))
    return check.Subject(chz.replace(experiment, model=chz.replace(experiment.model, **SIZE)))


# Wrong in one way each.


@chz.chz
class RotatedTexts(MLM):
    """Row b asks about the text of row b + 1."""

    def corrupt(self, batch, context):
        return MLM.corrupt(self, batch | {"tokens": jnp.roll(batch["tokens"], -1, axis=0)}, context)


@chz.chz
class KeysOfRows(MLM):
    """What is hidden follows the place in the batch."""

    def corrupt(self, batch, context):
        keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(0), row))(jnp.arange(len(batch["tokens"])))
        return MLM.corrupt(self, batch, dataclasses.replace(context, keys=keys))


@chz.chz
class HiddenBoundaries(MLM):
    """The boundary between documents may be hidden, as any token."""

    def corrupt(self, batch, context):
        question = MLM.corrupt(self, batch, context)
        boundary = batch["tokens"] == context.vocab.boundary_id
        chosen = jax.vmap(lambda key: jax.random.bernoulli(key, 0.2, boundary.shape[1:]))(context.keys)
        return question | {"tokens": jnp.where(boundary & chosen, context.vocab.mask_id, question["tokens"])}


@chz.chz
class AnyReplacement(MLM):
    """Random replacements are drawn from all ids."""

    def corrupt(self, batch, context):
        special = tuple(i for i in context.vocab.special_ids if i == context.vocab.pad_id)
        vocab = dataclasses.replace(context.vocab, special_ids=special)
        question = MLM.corrupt(self, batch, dataclasses.replace(context, vocab=vocab))
        kept = jnp.isin(batch["tokens"], np.array(context.vocab.special_ids))
        return question | {"tokens": jnp.where(kept, batch["tokens"], question["tokens"])}


@chz.chz
class UnderstatedRate(MLM):
    """Predicts more than it says."""

    def predicted(self, length):
        return {"mlm": round(0.12 * length)}

    def most_hidden(self, length):
        return round(self.rate * length)


@chz.chz
class AcrossDocuments(MLM):
    """Attention crosses documents."""

    def inputs(self, batch, vocab):
        inputs = super(AcrossDocuments, self).inputs(batch, vocab)
        return inputs.replace(mask=inputs.mask.replace(segments=None))


@chz.chz
class LateDocuments(MLM):
    """Takes the boundary for the first token of the next document, not for the last one of its own."""

    def inputs(self, batch, vocab):
        segments = jnp.cumsum(batch["original"] == vocab.boundary_id, axis=1)
        return packed_input(batch["tokens"], segments, vocab, causal=False)


class Ahead(LanguageModel):
    """Reads the hidden state of the next position."""

    def hidden(self, inputs, state=None, *, train=False):
        hidden = super().hidden(inputs, state, train=train)
        if inputs.mask.segments is None:
            return hidden
        same = inputs.mask.segments == jnp.roll(inputs.mask.segments, -1, axis=1)
        return hidden.replace(last=jnp.where(same[..., None], jnp.roll(hidden.last, -1, axis=1), hidden.last))


@chz.chz
class LooksAhead(CausalLM):
    def net(self, body, vocab):
        padded = body.padded_vocab(vocab.size)
        return Ahead(body.build(padded), LanguageHead(body, padded, False, False))


@chz.chz
class OffByOne(CausalLM):
    """Predicts the next token with a mask that shows it."""

    def inputs(self, batch, vocab):
        return packed_input(batch["tokens"], segments_of(batch["tokens"], vocab), vocab, causal=False)


@chz.chz
class ShownAnswers(MLM):
    """Hides nothing of what it asks, and does not say so."""

    mask_share: float = 0.0
    random_share: float = 0.0

    def visible(self):
        return 0.0


@chz.chz
class Means(MLM):
    """A mean where a sum is due."""

    def losses(self, net, variables, batch, context):
        losses = super(Means, self).losses(net, variables, batch, context)
        return losses.replace(totals={"mlm": losses.totals["mlm"] / self.weights(batch, context.vocab)["mlm"]})


@chz.chz
class PerShard(MLM):
    """Depends on how many devices there are."""

    def losses(self, net, variables, batch, context):
        losses = super(PerShard, self).losses(net, variables, batch, context)
        return losses.replace(totals={"mlm": losses.totals["mlm"] / active_shards()})


@chz.chz
class Stopped(MLM):
    """No gradient reaches the parameters."""

    def losses(self, net, variables, batch, context):
        return super(Stopped, self).losses(net, jax.lax.stop_gradient(variables), batch, context)


WRONG = {
    "rows": [RotatedTexts()],
    "replay": [KeysOfRows()],
    "special tokens": [HiddenBoundaries(), AnyReplacement(mask_share=0.0, random_share=1.0)],
    "rates": [UnderstatedRate()],
    "documents": [AcrossDocuments(), LateDocuments()],
    "future": [LooksAhead()],
    "answer": [OffByOne(), ShownAnswers()],
    "accumulation": [Means()],
    "mesh": [PerShard()],
    "pmap": [Means()],
    "learns": [Stopped()],
}


@functools.cache
def looked_at(objective) -> check.Subject:
    return subject(objective, GPT if isinstance(objective, CausalLM) else BERT)


@pytest.mark.parametrize(
    "law,objective",
    [
        pytest.param(law, wrong, id=f"{law}: {type(wrong).__name__}")
        for law, objectives in WRONG.items()
        for wrong in objectives
    ],
)
def test_a_law_catches(law, objective):
    result = check.LAWS[law](looked_at(objective))
    assert result.passed is False and result.number is not None, result


def test_a_right_one_passes_where_the_wrong_ones_fail():
    """Those that share a body with MLM and CausalLM differ from them by what their law names."""
    for law in ("rows", "replay", "special tokens", "rates", "documents"):
        assert check.LAWS[law](looked_at(MLM())).passed, law
    assert check.LAWS["future"](looked_at(CausalLM())).passed


def test_a_part_is_named():
    mixed = Mixed(mixture=(Part(objective=MLM()), Part(objective=HiddenBoundaries())))
    result = check.LAWS["special tokens"](subject(mixed))
    assert result.passed is False and result.note.startswith("HiddenBoundaries: ")


def test_an_error_is_a_law_that_failed():
    @chz.chz
    class Broken(MLM):
        def corrupt(self, batch, context):
            return batch | {"tokens": batch["token"]}

    (result,) = check.check(cases.experiment(Broken(), BERT()), {"rows": check.LAWS["rows"]})
    assert result.passed is False and result.law == "rows"
    assert "test_check.py, line" in result.note and "KeyError: 'token'" in result.note


def test_what_does_not_go_together_is_said():
    with pytest.raises(UserError, match="PLM needs a body that offers two streams"):
        list(check.check(cases.experiment("PLM", "BERT")))


def test_the_worst_of_several():
    passed, close, broken = at_most(0.1, 1), at_most(0.9, 1), at_least(0.1, 1, "too low")
    assert worst([("a", passed), ("b", close), ("c", skipped("no"))]).note == "b"
    assert worst([("a", passed), ("b", broken)]).note == "b: too low"
    assert worst([("a", skipped("no")), ("b", skipped("no"))]).passed is None
    assert not at_most(float("nan"), 1).passed and not at_least(float("nan"), 1).passed


def test_full_keeps_the_body():
    experiment = cases.experiment("MLM", BERT(layers=3, width=48, heads=4, hidden=96))
    sizes = lambda model: (model.layers, model.width, model.heads, model.hidden, model.dropout, model.dtype)
    assert sizes(check.small(experiment).model) == (2, 32, 8, 64, 0.0, "float32")
    assert sizes(check.small(experiment, full=True).model) == (3, 48, 4, 96, 0.0, "float32")


def test_the_stream_knows_its_documents():
    for side in ("end", "begin"):
        vocab = VocabSpec.synthetic(64, side)
        stream = RandomStream.make(vocab, 32, rows=20, document=10)
        spans = [stream.document(number) for number in range(stream.documents)]
        assert spans[0][0] == 0 and spans[-1][1] == len(stream.tokens)
        for number, (start, stop) in enumerate(spans):
            text = stream.read(start, stop)
            assert text[-1 if side == "end" else 0] == vocab.boundary_id and (text == vocab.boundary_id).sum() == 1
            assert {stream.document_of(place) for place in range(start, stop)} == {number}


def test_the_command_says_which_law_is_broken(monkeypatch, capsys):
    monkeypatch.setattr(main, "set_up_devices", lambda: None)
    run = functools.partial(call, main, workdir=False)
    arguments = ["--config=configs/mlm_stdlib.py", "--laws=rows,special tokens,future"]
    assert run(*arguments) == 0
    said = capsys.readouterr().out
    assert "MLM on BERT" in said and "skipped" in said and "FAILED" not in said
    assert run(*arguments, "objective=tests.test_check:HiddenBoundaries") == 1
    said = capsys.readouterr().out
    assert "HiddenBoundaries on BERT" in said and "FAILED" in said and "broken: special tokens" in said
    assert run("--config=configs/mlm_stdlib.py", "--laws=rows,colums") == 2
    assert "there is no law 'colums'" in capsys.readouterr().err


def test_a_small_body_sees_its_windows_and_buckets():
    """What tells near from far does so in the rows of the laws, whatever the body's own sizes."""
    made = lambda model: small(cases.experiment("MLM", model)).model
    assert made(Llama.preset("mistral-7B")).window < LENGTH // 2
    assert made(ModernBERT.preset("base")).window < LENGTH // 2
    deberta = made(DeBERTa.preset("base"))
    assert deberta.furthest < LENGTH and 0 < deberta.buckets < LENGTH // 2
    assert made(Llama.preset("qwen3-0.6B")).kv_heads == 4  # two queries share a key, as there
