"""Scores of texts against the same sums written out, token by token."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptjax.config import UserError
from ptjax.data.tokenizers import VocabSpec
from ptjax.data.tokenizers.base import Tokenizer
from ptjax.likelihood import (
    Causal,
    DiffusionBound,
    Permutation,
    PseudoLikelihood,
    Scorer,
    likelihood_of,
    part_of,
)
from ptjax.models import BERT, GPT, T5, XLNet
from ptjax.models.heads import init
from ptjax.objectives import (
    MLM,
    NSP,
    PLM,
    RTD,
    UL2,
    CausalLM,
    Hybrid,
    MaskedDiffusion,
    Mixed,
    Part,
    Phase,
    PrefixLM,
    Schedule,
    SpanCorruption,
)
from ptjax.pretrained import Pretrained
from ptjax.types import Hidden, Mask, PairInput, TextInput

SIZE = dict(layers=2, width=16, heads=2, hidden=32, max_length=40, dropout=0.0, attention_dropout=0.0, unroll=False)
VOCAB = VocabSpec.synthetic(100)
PLAIN, FRAMED, ENDED = ((), ()), ((VOCAB.cls_id,), (VOCAB.sep_id,)), ((), (VOCAB.boundary_id,))
TEXTS = ("10 11 12 13 14", "40 41 42 43 44 45 46")


class Numbers(Tokenizer):
    """Reads ids that are written as numbers."""

    path, boundary_side = "numbers", "end"

    def __init__(self, framing, vocab=VOCAB):
        self._framing, self._vocab = framing, vocab

    framing = property(lambda self: self._framing)
    vocab = property(lambda self: self._vocab)

    def encode_batch(self, texts):
        return [np.array(text.split(), np.int32) for text in texts]


@functools.cache
def scorer(objective, body, likelihood, framing, vocab=VOCAB) -> Scorer:
    """Random weights, large enough that every token that is seen makes a difference."""
    model = body(**SIZE)
    vocab = objective.vocabulary(vocab)
    net = objective.net(model, vocab)
    params = jax.jit(lambda: init(net, jax.random.key(0), 8))()
    params = jax.tree.map(lambda x: 20 * x if x.ndim > 1 else x, params)
    return Scorer(likelihood, objective, model, net, params, Numbers(framing, vocab), vocab, framing)


@functools.lru_cache(maxsize=None)
def forward(net, causal: bool):
    @jax.jit
    def run(params, tokens_1L):
        positions = jnp.arange(tokens_1L.shape[1])[None]
        return net.apply({"params": params}, TextInput(tokens_1L, positions, Mask(causal=causal)))

    return run


def log_probs(s: Scorer, tokens, causal=False) -> np.ndarray:
    """f64[L, V] of one row that stands alone, without padding."""
    logits = np.asarray(forward(s.net, causal)(s.params, np.asarray(tokens, np.int32)[None])[0], np.float64)
    logits = logits[:, : s.vocab.size]
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def ids(text: str) -> list[int]:
    return [int(word) for word in text.split()]


# --- causal ---


@pytest.mark.parametrize("framing", [PLAIN, FRAMED, ENDED], ids=["plain", "cls-sep", "end"])
def test_causal_is_the_sum_over_tokens_from_those_before(framing):
    """The boundary behind a text counts; a [SEP] that is no boundary does not; nothing predicts a first token."""
    s = scorer(CausalLM(), GPT, Causal(), framing)
    row = [*framing[0], *ids(TEXTS[0]), *framing[1]]
    logs = log_probs(s, row, causal=True)
    last = len(row) - (framing is FRAMED)
    assert s.scores([TEXTS[0]])[0] == pytest.approx(sum(logs[i - 1, row[i]] for i in range(1, last)), rel=1e-5)


def test_hybrid_and_prefix_models_read_as_causal_ones():
    s = scorer(Hybrid(), GPT, Causal(), ENDED)
    row = [*ids(TEXTS[0]), VOCAB.boundary_id]
    logs = log_probs(s, row, causal=True)
    assert s.scores([TEXTS[0]])[0] == pytest.approx(sum(logs[i - 1, row[i]] for i in range(1, 6)), rel=1e-5)
    prefix, causal = (
        scorer(objective, GPT, Causal(), ENDED).scores([TEXTS[0]]) for objective in (PrefixLM(), CausalLM())
    )
    assert prefix == causal


@pytest.mark.parametrize(
    "objective, body, likelihood",
    [(CausalLM(), GPT, Causal()), (PLM(), XLNet, Permutation())],
    ids=["causal", "plm left to right"],
)
def test_chain_rule(objective, body, likelihood):
    """Over all continuations by two tokens of a tiny vocabulary, probabilities sum to 1."""
    vocab = VocabSpec.synthetic(9)
    s = scorer(objective, body, likelihood, ((vocab.boundary_id,), ()), vocab)
    pairs = [f"8 7 {a} {b}" for a, b in itertools.product(range(9), repeat=2)]
    start, *scores = s.scores(["8 7", *pairs])
    shares = np.exp(np.array(scores) - start)
    assert shares.sum() == pytest.approx(1, rel=1e-5)
    assert shares.max() > 2 / 81  # not all alike


def test_what_stands_before_a_text():
    """A published model without a frame has learned to go on from the boundary; one of ours has not."""
    tokenizer = Numbers(PLAIN)
    assert Causal().framing(tokenizer, published=True) == ((VOCAB.boundary_id,), ())
    assert Causal().framing(tokenizer, published=False) == PLAIN
    assert Causal().framing(Numbers(FRAMED), published=True) == FRAMED
    assert PseudoLikelihood().framing(tokenizer, published=True) == PLAIN


# --- masks ---


def pseudo(s: Scorer, row: list[int], hidden: dict[int, list[int]], shift: int = 0) -> float:
    """Sum over positions of log p(token) with the positions listed there masked."""
    total = 0.0
    for i, masked in hidden.items():
        shown = [VOCAB.mask_id if j in masked else token for j, token in enumerate(row)]
        total += log_probs(s, shown)[i - shift, row[i]]
    return total


def test_pseudo_likelihood_masks_each_token_alone():
    s = scorer(MLM(), BERT, PseudoLikelihood(), FRAMED)
    row = [VOCAB.cls_id, *ids(TEXTS[0]), VOCAB.sep_id]
    assert s.scores([TEXTS[0]])[0] == pytest.approx(pseudo(s, row, {i: [i] for i in range(1, 6)}), rel=1e-5)


def test_within_a_word_what_follows_is_masked_too():
    """10 begins a word of three pieces, as ids that 3 divides go on with one; 11 and 13 are words."""
    s = scorer(MLM(), BERT, PseudoLikelihood(within_word=True), FRAMED)
    row = [VOCAB.cls_id, 10, 12, 15, 11, 13, VOCAB.sep_id]
    expected = pseudo(s, row, {1: [1, 2, 3], 2: [2, 3], 3: [3], 4: [4], 5: [5]})
    found = s.scores(["10 12 15 11 13"])[0]
    assert found == pytest.approx(expected, rel=1e-5)
    plain = dataclasses.replace(s, likelihood=PseudoLikelihood()).scores(["10 12 15 11 13"])[0]
    assert abs(found - plain) > 0.1


def test_hybrid_fills_a_mask_from_the_state_before_it():
    s = scorer(Hybrid(), GPT, PseudoLikelihood(), ENDED)
    row = [*ids(TEXTS[0]), VOCAB.boundary_id]
    expected = pseudo(s, row, {i: [i] for i in range(1, len(row) - 1)}, shift=1)
    assert s.scores([TEXTS[0]])[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("objective, body", [(SpanCorruption(), T5), (UL2(), GPT)], ids=["t5", "ul2 on gpt"])
def test_a_sentinel_stands_for_a_token(objective, body):
    """The decoder reads the sentinel and says what it stands for. UL2 announces the regular kind, [R]."""
    s = scorer(objective, body, PseudoLikelihood(), ENDED)
    row = [10, 12, 15, 11, VOCAB.boundary_id]
    sentinel, mode = s.vocab.extra_ids[0], [s.vocab.extra_ids[256]] if isinstance(objective, UL2) else []

    def read(tokens, causal):
        mask = Mask(causal=causal, valid=jnp.ones_like(tokens, bool), segments=jnp.zeros_like(tokens))
        return TextInput(tokens, jnp.arange(tokens.shape[1])[None], mask)

    @jax.jit
    def answer(source, target):
        logits = s.net.apply({"params": s.params}, PairInput(read(source, False), read(target, True)))
        return jax.nn.log_softmax(logits[0, 1, : s.vocab.size])

    shown = [[*mode, *row[:i], sentinel, *row[i + 1 :]] for i in range(4)]
    target = np.array([[VOCAB.pad_id, sentinel]])
    total = sum(float(answer(np.array([source]), target)[row[i]]) for i, source in enumerate(shown))
    assert s.scores(["10 12 15 11"])[0] == pytest.approx(total, rel=1e-5)

    asked = PseudoLikelihood(within_word=True).questions(s._framed(["10 12 15 11"])[0], objective, s.vocab)
    rest = [[sentinel, *row[3:]], [10, sentinel, *row[3:]], [10, 12, sentinel, *row[3:]], shown[3][len(mode) :]]
    assert [question.tokens.tolist() for question in asked] == [mode + source for source in rest]
    assert s.fit(["11 " * 36, "11 " * 37]).tolist() == [True, False]  # a mode, the decoder's two, and the boundary


def test_the_longest_text_fits_with_its_answer():
    s = scorer(UL2(), GPT, PseudoLikelihood(), ENDED)
    assert np.isfinite(s.scores(["11 " * 36])).all()
    with pytest.raises(UserError, match="has 38 tokens, and the model reads at most 37"):
        s.scores(["11 " * 37], ["it"])


# --- orders ---


@functools.cache
def query(net):
    @jax.jit
    def run(params, tokens_L, order_L, at):
        mask = Mask(order=order_L[None])
        inputs = TextInput(tokens_L[None], jnp.arange(len(tokens_L))[None], mask, targets=at[None, None])
        hidden = net.apply({"params": params}, inputs, method="hidden")
        return net.apply({"params": params}, hidden.queries[0, 0], method="logits")

    return run


def by_queries(s: Scorer, row, order, at) -> float:
    """Sum of log p of the tokens at these positions, by a pass for each."""
    answers = [query(s.net)(s.params, np.array(row), np.array(order), np.int32(i)) for i in at]
    return sum(float(jax.nn.log_softmax(x[: s.vocab.size])[row[i]]) for i, x in zip(at, answers))


def test_orders_and_single_queries():
    s = scorer(PLM(), XLNet, Permutation(), ENDED)
    row = [*ids(TEXTS[0]), VOCAB.boundary_id]
    left_to_right = by_queries(s, row, [1, 2, 3, 4, 5, 0], range(5))
    assert s.scores([TEXTS[0]])[0] == pytest.approx(left_to_right, rel=1e-5)

    several = dataclasses.replace(s, likelihood=Permutation(orders=2))
    text = several._framed([TEXTS[0]])[0]
    orders = [question.order for question in several.likelihood.questions(text, PLM(), VOCAB)]
    assert all(sorted(order[:5]) == [1, 2, 3, 4, 5] and order[5] == 0 for order in orders)
    assert list(orders[0]) != list(orders[1])
    expected = np.mean([by_queries(s, row, order, range(5)) for order in orders])
    assert several.scores([TEXTS[0]])[0] == pytest.approx(expected, rel=1e-5)

    single = dataclasses.replace(s, likelihood=PseudoLikelihood())
    expected = sum(by_queries(s, row, [int(i == j) for j in range(6)], [i]) for i in range(5))
    assert single.scores([TEXTS[0]])[0] == pytest.approx(expected, rel=1e-5)


# --- diffusion ---


class Frequencies:
    """A net without context, under which the mask would be the likeliest piece."""

    def __init__(self):
        bias = np.random.default_rng(0).normal(size=VOCAB.size).astype(np.float32) * 2
        bias[VOCAB.mask_id] = 9.0
        self.bias = jnp.asarray(bias)
        self.logs = np.where(np.arange(VOCAB.size) == VOCAB.mask_id, -np.inf, bias.astype(np.float64))
        self.logs -= np.log(np.exp(self.logs).sum())

    def apply(self, variables, x, *, method):
        if method == "hidden":
            return Hidden(jnp.zeros((*x.tokens.shape, 1)))
        return x, jnp.zeros((len(self.bias), 1)), self.bias


def test_the_bound_of_a_model_without_context_is_its_likelihood():
    net = Frequencies()
    s = dataclasses.replace(
        scorer(MaskedDiffusion(), GPT, DiffusionBound(samples=600), ENDED), net=net, params={}, model=GPT(**SIZE)
    )
    found = s.scores(["10 10 10 10", TEXTS[1]])
    assert found[0] == pytest.approx(4 * net.logs[10], rel=1e-5)  # whatever is masked
    assert found[1] == pytest.approx(net.logs[ids(TEXTS[1])].sum(), rel=0.05)


def test_the_bound_is_the_mean_over_all_masks():
    """Over 1, 2 or 3 masks of 3, as likely, and each choice of them."""
    s = scorer(MaskedDiffusion(), GPT, DiffusionBound(samples=2000), ENDED)
    row, terms = [10, 11, 12, VOCAB.boundary_id], []
    for count in (1, 2, 3):
        values = []
        for masked in itertools.combinations(range(3), count):
            shown = [VOCAB.mask_id if i in masked else token for i, token in enumerate(row)]
            p = np.exp(log_probs(s, shown))
            p[:, VOCAB.mask_id] = 0
            p /= p.sum(axis=1, keepdims=True)
            values.append(3 / count * sum(np.log(p[i, row[i]]) for i in masked))
        terms.append(values)
    expected = np.mean([np.mean(values) for values in terms])
    spread = np.std(np.concatenate(terms)) / 2000**0.5
    assert s.scores(["10 11 12"])[0] == pytest.approx(expected, abs=5 * spread)
    assert spread < 0.01 * abs(expected)


# --- all ---

KINDS = [
    (CausalLM(), GPT, Causal()),
    (MLM(), BERT, PseudoLikelihood()),
    (PLM(), XLNet, Permutation()),
    (MaskedDiffusion(), GPT, DiffusionBound(samples=4)),
]


@pytest.mark.parametrize("objective, body, likelihood", KINDS, ids=["causal", "mlm", "plm", "diffusion"])
def test_a_score_is_of_its_text_alone(objective, body, likelihood):
    """Equal texts tie exactly wherever they stand, and the order of texts changes no bit."""
    s = scorer(objective, body, likelihood, ENDED)
    draw = np.random.default_rng(0)
    texts = [" ".join(map(str, draw.integers(7, 100, size))) for size in draw.integers(1, 8, 20)] * 2
    found = s.scores(texts)
    assert np.isfinite(found).all() and len(set(found)) == 20
    assert (found[:20] == found[20:]).all()
    order = draw.permutation(40)
    assert (s.scores([texts[i] for i in order]) == found[order]).all()
    assert s.scores(texts[7:8])[0] == pytest.approx(found[7], rel=2e-5)


def test_hopeless_texts_are_named():
    s = scorer(CausalLM(), GPT, Causal(), ENDED)
    with pytest.raises(UserError, match="pair-7 has no tokens"):
        s.scores(["10", ""], ["pair-6", "pair-7"])
    with pytest.raises(UserError, match="pair-7 has 41 tokens, and the model reads at most 40"):
        s.scores(["10", "11 " * 40], ["pair-6", "pair-7"])
    assert np.isfinite(s.scores(["11 " * 39])).all()
    assert s.fit(["11 " * 39, "11 " * 40]).tolist() == [True, False]
    assert s.scores([]).shape == (0,)


# --- whose ---


def mixed(*objectives):
    return Mixed(mixture=tuple(Part(objective=objective) for objective in objectives))


def test_the_usual_likelihood():
    in_order = lambda *all: Schedule(phases=tuple(Phase(objective=objective) for objective in all))
    for objective, kind, part in [
        (CausalLM(), Causal, CausalLM),
        (PrefixLM(), Causal, PrefixLM),
        (MLM(), PseudoLikelihood, MLM),
        (NSP(), PseudoLikelihood, NSP),
        (Hybrid(), PseudoLikelihood, Hybrid),
        (PLM(), Permutation, PLM),
        (MaskedDiffusion(), DiffusionBound, MaskedDiffusion),
        (UL2(), PseudoLikelihood, UL2),
        (mixed(RTD(), CausalLM()), Causal, CausalLM),
        (in_order(CausalLM(), MLM()), PseudoLikelihood, MLM),
        (in_order(MLM(), mixed(RTD(), MaskedDiffusion())), DiffusionBound, MaskedDiffusion),
    ]:
        found = likelihood_of(objective)
        assert type(found) is kind and type(part_of(objective, found)) is part
    assert type(part_of(mixed(MLM(), CausalLM()), Causal())) is CausalLM


def test_who_has_none_is_told_who_has():
    for objective in (RTD(), mixed(RTD(), RTD())):
        with pytest.raises(UserError, match="gives a text no likelihood.*CausalLM, PrefixLM, MLM"):
            likelihood_of(objective)
    with pytest.raises(UserError, match="Causal cannot be asked of .* MLM: .* PseudoLikelihood"):
        part_of(MLM(), Causal())
    for bad in (lambda: Permutation(orders=0), lambda: DiffusionBound(samples=0)):
        with pytest.raises(ValueError, match="at least 1"):
            bad()


@pytest.fixture(scope="module")
def run(trained):
    return trained("mlm"), Pretrained.open(trained("mlm").workdir)


def test_weights_of_a_run(run):
    """The score is that of the run's last parameters with the head that it trained."""
    done, start = run
    s, texts = Scorer.open(start), ["The value of a name", "import"]
    assert s.framing == ENDED and type(s.likelihood) is PseudoLikelihood
    expected = jax.device_get(jax.tree.leaves(done.run.restore_params(done.workdir)))
    found = jax.device_get(jax.tree.leaves(s.params))
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))
    fresh = [Scorer.open(start, fresh=True, seed=seed).scores(texts) for seed in (0, 0, 1)]
    assert (fresh[0] == fresh[1]).all() and (fresh[0] != fresh[2]).all()
    assert (s.scores(texts) != fresh[0]).all()


def test_a_body_without_its_head_is_refused(run):
    start = run[1]
    body = dataclasses.replace(start.source, shapes={"body": start.source.shapes["body"]})
    with pytest.raises(UserError, match=r"without the head that scores the vocabulary \(head\): it can be fine-tuned"):
        Scorer.open(dataclasses.replace(start, source=body))
    with pytest.raises(UserError, match="does not say what its model has learned"):
        Scorer.open(dataclasses.replace(start, objective=None))
    with pytest.raises(UserError, match=f"{start.folder}: .* cannot be asked"):
        Scorer.open(start, Causal())
