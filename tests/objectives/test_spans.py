"""Span corruption and the mixture of denoisers: against T5's published functions, spelled out in numpy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptjax.config import UserError, from_json, override, to_json
from ptjax.models import GPT, T5, TransformerXL, XLNet
from ptjax.models.heads import init
from ptjax.models.pairs import joined
from ptjax.objectives import UL2, SpanCorruption
from ptjax.objectives.base import CorruptContext, StepContext
from ptjax.objectives.spans import DENOISERS, Denoiser, noise_mask
from ptjax.types import PairInput

from ..contracts import cases

PIECES = cases.VOCAB
SIZE = dict(layers=2, width=32, heads=2, hidden=64, unroll=False, dropout=0.0, attention_dropout=0.0)
BODIES = {"t5": T5(**SIZE, head_dim=8), "gpt": GPT(**SIZE, max_length=64)}
RELATIVE = {"transformer_xl": TransformerXL(**SIZE, std=0.2), "xlnet": XLNet(**SIZE, std=0.2)}
OBJECTIVES = {"span": SpanCorruption(rate=0.3, mean_span=2.0), "ul2": UL2(), "plain ul2": UL2(mode_tokens=False)}


def published_counts(length: int, rate: float, mean_span: float) -> tuple[int, int]:
    """(noise tokens, spans) of t5.data.preprocessors.random_spans_noise_mask, line by line, before it cuts the mask to
    the row again where that is shorter than 2."""
    length = max(length, 2)
    noise = int(np.round(np.float32(length) * np.float32(rate)))
    noise = min(max(noise, 1), length - 1)
    return noise, max(int(np.round(np.float32(noise) / np.float32(mean_span))), 1)


@functools.cache
def corruption(objective):
    vocab = objective.vocabulary(PIECES)

    @jax.jit
    def run(tokens, seed):
        keys = jax.random.split(jax.random.key(seed), len(tokens))
        zero = jnp.zeros(())
        return objective.corrupt({"tokens": tokens}, CorruptContext(vocab, keys, keys, zero, zero))

    return run, vocab


def corrupt(objective, tokens, seed):
    run, vocab = corruption(objective)
    return jax.device_get(run(tokens, np.uint32(seed))), vocab


def documents(tokens, segments, pad):
    """The tokens of each document that has any, by its number."""
    return {n: tokens[(segments == n) & (tokens != pad)].tolist() for n in np.unique(segments[tokens != pad])}


def spans_of(target: list[int], vocab) -> list[list[int]]:
    """A document's target cut at its sentinels, which have to be 0, 1, 2, ... with nothing behind the last."""
    first, spans = vocab.extra_ids[0], []
    for token in target:
        if token >= first:
            assert token == first + len(spans)
            spans.append([])
        else:
            spans[-1].append(token)
    assert spans.pop() == [] and all(spans)
    return spans


def rebuilt(source: list[int], spans: list[list[int]], vocab, sentinels: int) -> list[int]:
    """The document: its source without mode token, each sentinel replaced by its span."""
    first, text, used = vocab.extra_ids[0], [], 0
    for token in source:
        if token < first:
            text.append(token)
        elif token < first + sentinels:
            assert token == first + used
            text += spans[used]
            used += 1
    assert used == len(spans)
    return text


@pytest.mark.parametrize("name", OBJECTIVES)
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), step=st.integers(0, 10**6))
def test_nothing_is_lost(name, seed, step):
    """Source and target give back the text, specials stay in the source, and the counts are the published ones."""
    objective, batch = OBJECTIVES[name], cases.batch(step)
    out, vocab = corrupt(objective, batch["tokens"], seed)
    pad = vocab.pad_id
    assert (out["original"] == batch["tokens"]).all()
    for row in range(cases.ROWS):
        sources = documents(out["tokens"][row], out["segments"][row], pad)
        targets = documents(out["target"][row], out["target_segments"][row], pad)
        assert targets.keys() <= sources.keys()
        text, lost = [], []
        for number, source in sources.items():
            spans = spans_of(targets[number], vocab) if number in targets else []
            assert not set(sum(spans, [])) & set(PIECES.special_ids)
            text += rebuilt(source, spans, vocab, objective.sentinels)
            lost += spans
        assert text == [t for t in batch["tokens"][row].tolist() if t != pad]

        denoiser = objective.denoisers[out["denoiser"][row]]
        ordinary = ~np.isin(batch["tokens"][row], PIECES.special_ids)
        n, cut = int(ordinary.sum()), sum(map(len, lost))
        noise, spans = published_counts(n, denoiser.rate, denoiser.mean_span or n)
        if n < 2:
            assert cut == 0
        elif cut == noise:
            assert len(lost) >= min(spans, n - noise)  # more where a special token breaks one
        else:  # there was no room for the next one, at most what is missing and two sentinels
            used = (out["target"][row] != pad).sum()
            assert cut < noise and used + (noise - cut) + 2 > out["target"].shape[1]

        modes = [d[0] if d and d[0] >= vocab.extra_ids[0] + objective.sentinels else None for d in sources.values()]
        if not objective.modes:
            assert set(modes) <= {None}
            continue
        expected = vocab.extra_ids[objective.sentinels + "RSX".index(denoiser.mode)]
        announced = sum(mode is not None for mode in modes)
        assert modes == [expected] * announced + [None] * (len(modes) - announced)
        assert announced == len(modes) or (out["tokens"][row] != pad).all()  # left out where the row is full only


@pytest.mark.parametrize("length", [33, 128, 512])
@pytest.mark.parametrize("rate,mean_span", [(0.15, 3.0), (0.5, 3.0), (0.15, 64.0), (0.9, 2.0)])
def test_counts_as_published(length, rate, mean_span):
    noise, spans = Denoiser(rate=rate, mean_span=mean_span).counts(length)
    for n in range(2, length + 1):
        expected = published_counts(n, rate, mean_span)
        assert (noise[n], spans[n]) == (expected[0], min(expected[1], n - expected[0]))
    assert not noise[:2].any() and not spans[:2].any()  # of one token the published mask keeps the first


def test_masks_are_uniform():
    """Of 8 tokens, 4 noise in 3 spans: each of the 3 x 3 pairs of compositions equally often, and no other mask."""

    def runs(a, b):
        return sum(([False] * x + [True] * y for x, y in zip(a, b)), [])

    parts = [p for p in itertools.product(range(1, 5), repeat=3) if sum(p) == 4]
    expected = {tuple(runs(a, b)): 0 for a in parts for b in parts}
    assert len(expected) == 9
    draws = 9000
    keys = jax.random.split(jax.random.key(0), draws)
    masks = jax.jit(jax.vmap(lambda key: noise_mask(key, 8, 4, 3, length=12, most=5)))(keys)
    assert not np.asarray(masks)[:, 8:].any()
    for mask in np.asarray(masks)[:, :8].tolist():
        expected[tuple(mask)] += 1
    share = 1 / 9
    assert np.abs(np.array(list(expected.values())) / draws - share).max() < 5 * (share * (1 - share) / draws) ** 0.5


def test_every_denoiser_comes_equally_often_and_keeps_its_rate():
    """Rows of 128 ordinary tokens: exact rates and mean spans, and the weight that `predicted` promises."""
    objective, length, rows = UL2(), 128, 700
    tokens = np.random.default_rng(0).integers(7, PIECES.size, (rows, length)).astype(np.int32)
    out, vocab = corrupt(objective, tokens, 5)
    first, shares = vocab.extra_ids[0], np.bincount(out["denoiser"], minlength=len(DENOISERS)) / rows
    assert np.abs(shares - 1 / 7).max() < 5 * (1 / 7 * 6 / 7 / rows) ** 0.5
    for number, denoiser in enumerate(DENOISERS):
        target = out["target"][out["denoiser"] == number]
        noise, spans = published_counts(length, denoiser.rate, denoiser.mean_span or length)
        assert ((target >= 7) & (target < first)).sum(axis=1).tolist() == [noise] * len(target)
        assert (target >= first).sum(axis=1).tolist() == [spans + 1] * len(target)
        if denoiser.mode == "S":  # the end of the row, behind the one sentinel
            assert (target[:, 1 : 1 + noise] == tokens[out["denoiser"] == number][:, -noise:]).all()
    weight = float(objective.weights({"target": jnp.asarray(out["target"])}, vocab)["span"]) / rows
    spread = np.std([sum(published_counts(length, d.rate, d.mean_span or length)) for d in DENOISERS])
    assert weight == pytest.approx(objective.predicted(length)["span"], abs=5 * spread / rows**0.5)
    assert SpanCorruption().predicted(512) == {"span": 77 + 26 + 1}


def test_rows_do_not_touch_each_other():
    tokens, objective = cases.batch(3)["tokens"], OBJECTIVES["span"]
    straight, _ = corrupt(objective, tokens, 1)
    changed = tokens.copy()
    changed[1:] = tokens[1:][::-1]
    other, _ = corrupt(objective, changed, 1)
    assert all((straight[k][0] == other[k][0]).all() for k in straight)
    assert (corrupt(objective, tokens, 2)[0]["tokens"] != straight["tokens"]).any()


# --- what the bodies see ---


@functools.cache
def reader(body: str):
    """(hidden(batch) -> [B, T, D], corrupted batch, vocab): two documents a row, each of which lost something."""
    objective = OBJECTIVES["span"]
    vocab = objective.vocabulary(PIECES)
    net = objective.net((BODIES | RELATIVE)[body], vocab)
    params = jax.jit(lambda: init(net, jax.random.key(0), 8))()
    tokens = np.random.default_rng(1).integers(7, PIECES.size, (2, 32)).astype(np.int32)
    tokens[:, [11, 31]] = vocab.boundary_id
    tokens[1, 24:] = vocab.pad_id
    corrupted = (corrupt(objective, tokens, seed)[0] for seed in itertools.count())
    batch = next(b for b in corrupted if all(set(row) >= {0, 1} for row in b["target_segments"]))

    @jax.jit
    def hidden(batch):
        return net.apply({"params": params}, objective.inputs(batch, vocab), method="hidden").last

    return hidden, batch, vocab


def perturbed(batch, name, where, vocab):
    """Other tokens at these places, of the same kind: ordinary ones stay ordinary, and all others stay."""
    ordinary = where & ~np.isin(batch[name], vocab.special_ids)
    assert ordinary.any()
    return batch | {name: np.where(ordinary, 7 + (batch[name] - 6) % (PIECES.size - 7), batch[name]).astype(np.int32)}


@pytest.mark.parametrize("body", BODIES)
def test_documents_do_not_leak(body):
    hidden, batch, vocab = reader(body)
    segments = batch["target_segments"]
    straight = np.asarray(hidden(batch))
    for document in (0, 1):
        changed = perturbed(batch, "tokens", batch["segments"] == document, vocab)
        changed = perturbed(changed, "target", segments == document, vocab)
        other = np.asarray(hidden(changed))
        assert (other[segments == 1 - document] == straight[segments == 1 - document]).all()
        assert (other[segments == document] != straight[segments == document]).any(axis=-1).all()


@pytest.mark.parametrize("body", BODIES)
def test_the_decoder_does_not_see_its_answer(body):
    """A token of the target is read behind the position that has to predict it; the source is seen from everywhere."""
    hidden, batch, vocab = reader(body)
    straight = np.asarray(hidden(batch))
    place = np.arange(batch["target"].shape[1])
    at = int(np.flatnonzero(~np.isin(batch["target"][0], vocab.special_ids))[1])
    other = np.asarray(hidden(perturbed(batch, "target", (place == at) & np.array([[True], [False]]), vocab)))
    same = (other == straight).all(axis=-1)
    assert same[1].all() and same[0, : at + 1].all() and not same[0, at + 1]
    last = np.flatnonzero((batch["segments"][0] == 0) & ~np.isin(batch["tokens"][0], vocab.special_ids))[-1]
    where = np.zeros_like(batch["tokens"], bool)
    where[0, last] = True
    other = np.asarray(hidden(perturbed(batch, "tokens", where, vocab)))
    moved, real = (other != straight).any(axis=-1), batch["target"] != vocab.pad_id
    assert (moved == (batch["target_segments"] == 0) & np.array([[True], [False]]))[real].all()


@pytest.mark.parametrize("body", BODIES | RELATIVE)
def test_packed_is_unpacked(body):
    """Each document of a packed row, alone in a row of its own, has the same hidden states."""
    hidden, batch, vocab = reader(body)
    packed = np.asarray(hidden(batch))
    row = 0
    for document in (0, 1):
        alone = {}
        for name, segments in (("tokens", "segments"), ("target", "target_segments")):
            mine = batch[segments][row] == document
            alone[name] = np.full_like(batch[name], vocab.pad_id)
            alone[segments] = np.full_like(batch[segments], -1)
            alone[name][row, : mine.sum()] = batch[name][row, mine]
            alone[segments][row, : mine.sum()] = 0
        mine = batch["target_segments"][row] == document
        np.testing.assert_allclose(np.asarray(hidden(alone))[row, : mine.sum()], packed[row, mine], atol=2e-5)


def test_a_pair_in_one_row():
    """Positions go on from a document's source to its target; the prefix is the source without its padding."""
    objective, (_, batch, vocab) = OBJECTIVES["span"], reader("gpt")
    pair = objective.inputs(batch, vocab)
    assert isinstance(pair, PairInput)
    row = jax.device_get(joined(pair))
    for tokens, positions, segments, valid, prefix in zip(
        row.tokens, row.positions, row.mask.segments, row.mask.valid, row.mask.prefix
    ):
        for document in (0, 1):
            mine = (segments == document) & valid
            assert positions[mine].tolist() == list(range(mine.sum()))
            source = (segments == document) & prefix
            assert positions[source].tolist() == list(range(source.sum()))
            assert tokens[mine & ~prefix][0] == vocab.pad_id  # what a target begins with
    assert (row.mask.prefix == (np.arange(row.tokens.shape[1]) < batch["tokens"].shape[1]) & row.mask.valid).all()


@pytest.mark.parametrize("body", BODIES)
def test_loss_and_metrics(body):
    """A model that answers uniformly: its loss counts all target tokens, its nll the ordinary ones."""
    objective, (_, batch, vocab) = OBJECTIVES["span"], reader(body)
    net = objective.net(BODIES[body], vocab)
    params = jax.eval_shape(lambda: init(net, jax.random.key(0), 8))
    params = jax.tree.map(lambda x: jnp.zeros(x.shape), params)
    losses = jax.jit(lambda batch: objective.losses(net, {"params": params}, batch, StepContext(vocab)))(batch)
    asked = batch["target"] != vocab.pad_id
    ordinary = ~np.isin(batch["target"], vocab.special_ids)
    assert float(losses.totals["span"]) == pytest.approx(asked.sum() * np.log(vocab.size), rel=1e-5)
    assert float(objective.weights(batch, vocab)["span"]) == asked.sum()
    nll, weight = losses.metrics["nll"]
    assert (float(nll), float(weight)) == pytest.approx((ordinary.sum() * np.log(vocab.size), ordinary.sum()), rel=1e-5)
    assert 0 < ordinary.sum() < asked.sum()


# --- configs ---


def test_configs_travel():
    for objective in OBJECTIVES.values():
        assert from_json(to_json(objective)) == objective
    changed = override(UL2(), ["denoisers.2.rate=0.5", "mode_tokens=false"])
    assert [d.rate for d in changed.denoisers] == [0.15, 0.15, 0.5, 0.5, 0.5, 0.15, 0.5] and not changed.modes
    vocab = UL2(sentinels=10).vocabulary(PIECES)
    assert vocab.size == PIECES.size + 13 and set(vocab.extra_ids) <= set(vocab.special_ids)


def test_mistakes_are_explained():
    with pytest.raises(ValueError, match=r"rate must be in \(0, 1\), not 1"):
        SpanCorruption(rate=1.0)
    with pytest.raises(ValueError, match="mean_span must be at least 1"):
        SpanCorruption(mean_span=0.5)
    with pytest.raises(ValueError, match="denoisers: at least one"):
        UL2(denoisers=())
    with pytest.raises(UserError, match="set objective.sentinels=103 or more"):
        SpanCorruption().predicted(2048)
    objective, (_, batch, vocab) = OBJECTIVES["span"], reader("gpt")
    net = objective.net(GPT(**SIZE, max_length=40), vocab)
    shapes = jax.eval_shape(lambda: init(net, jax.random.key(0), 8))
    with pytest.raises(UserError, match="one row of 50 positions.*model.max_length=50 or more"):
        jax.eval_shape(lambda p: net.apply({"params": p}, objective.inputs(batch, vocab), method="hidden"), shapes)
