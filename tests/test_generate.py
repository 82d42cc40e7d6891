"""Filled masks and continued text, held against the plain forward pass."""

import chz
import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptjax.config import UserError
from ptjax.data.pipeline import Pipeline
from ptjax.generate import MASK, Predictor, Sampling, _cut
from ptjax.learner import Learner
from ptjax.models.heads import init
from ptjax.objectives import CausalLM, Hybrid, MaskedDiffusion, PrefixLM
from ptjax.objectives.base import packed_input
from ptjax.optim import AdamW, Constant
from tests import small

GREEDY = Sampling(tokens=12, temperature=0)
PROMPTS = ("The", "The value of a name is", "a statement")


def predictor_of(corpus, objective, body: str) -> Predictor:
    """Random parameters, large enough that different contexts give different answers."""
    model = chz.replace(small.KINDS[body][1], std=0.5)
    experiment = small.experiment(corpus, model=model, objective=objective)
    pipeline = Pipeline(experiment.data)
    net = objective.net(model, pipeline.vocab)
    params = jax.jit(lambda: init(net, jax.random.key(0), 32))()
    return Predictor(experiment, net, params, pipeline.tokenizer)


@pytest.fixture(scope="module", params=["mlm", "causal"], ids=["bert", "gpt"])
def sampler(request, tiny_corpus):
    return predictor_of(tiny_corpus, CausalLM(), request.param)


@pytest.fixture(scope="module")
def filler(tiny_corpus):
    return predictor_of(tiny_corpus, small.KINDS["mlm"][0], "mlm")


def encoded(predictor, texts=PROMPTS):
    return [predictor.tokenizer.encode(text) for text in texts]


def logits_after(predictor):
    """ids -> f32[V], the logits of the token that follows, by a forward pass over all of them."""
    vocab, length = predictor.tokenizer.vocab, predictor.experiment.model.max_length

    @jax.jit
    def forward(tokens, last):
        inputs = predictor.experiment.objective.inputs({"tokens": tokens}, vocab)
        return predictor.net.apply({"params": predictor.params}, inputs)[0, last, : vocab.size]

    def logits(ids):
        tokens = np.full((1, length), vocab.pad_id, np.int32)
        tokens[0, : len(ids)] = ids
        result = np.array(forward(tokens, len(ids) - 1))
        result[[i for i in vocab.special_ids if i != vocab.eos_id]] = -np.inf
        return result

    return logits


def test_cached_decoding_is_the_full_forward_pass_for_each_token(sampler):
    """Greedily, for prompts of different lengths in one batch, so padded on the left."""
    prompts, logits = encoded(sampler), logits_after(sampler)
    assert len({len(prompt) for prompt in prompts}) == 3
    texts = sampler.sample(prompts, GREEDY)
    assert len({tuple(text.tolist()) for text in texts}) == 3 and len(set(np.concatenate(texts).tolist())) > 5
    for prompt, found in zip(prompts, texts):
        ids = list(prompt)
        for _ in range(GREEDY.tokens):
            ids.append(int(logits(ids).argmax()))
            if ids[-1] == sampler.tokenizer.vocab.eos_id:
                del ids[-1]
                break
        assert found.tolist() == ids[len(prompt) :]


def test_one_candidate_is_the_likeliest(sampler):
    prompts = encoded(sampler)
    greedy = sampler.sample(prompts, GREEDY)
    for sampling in (Sampling(tokens=12, top_k=1), Sampling(tokens=12, top_p=1e-6), Sampling(12, temperature=1e-5)):
        assert [ids.tolist() for ids in sampler.sample(prompts, sampling)] == [ids.tolist() for ids in greedy]


def test_a_seed_is_a_text(sampler):
    prompts = encoded(sampler, [PROMPTS[1]] * 4)
    draw = lambda seed: [tuple(ids.tolist()) for ids in sampler.sample(prompts, Sampling(tokens=16, seed=seed))]
    first = draw(0)
    assert first == draw(0)
    assert len(set(first)) == 4  # each row has draws of its own
    assert not set(first) & set(draw(1))


def test_draws_follow_the_distribution(sampler):
    """Shares of each piece among many draws, at a temperature and cut to the likeliest."""
    prompt = encoded(sampler)[1]
    logits = logits_after(sampler)(prompt)
    best = np.argsort(-logits)[:4]
    expected = np.exp(logits[best] / 3.0)
    expected /= expected.sum()
    assert expected[1] > 0.02  # there is something to tell apart
    drawn = sampler.sample([prompt] * 3000, Sampling(tokens=1, temperature=3.0, top_k=4))
    drawn = np.array([ids[0] if len(ids) else sampler.tokenizer.vocab.eos_id for ids in drawn])
    assert set(drawn) <= set(best)
    shares = (drawn[:, None] == best).mean(axis=0)
    np.testing.assert_allclose(shares, expected, atol=5 * np.sqrt(0.25 / 3000))


def test_control_pieces_never_come(sampler):
    vocab = sampler.tokenizer.vocab
    texts = sampler.sample(encoded(sampler) * 20, Sampling(tokens=32, temperature=1e4))
    ids = np.concatenate(texts)
    assert len(ids) > 1000 and len(set(ids.tolist())) > vocab.size // 2  # so hot that every piece is as likely
    assert not set(ids.tolist()) & set(vocab.special_ids)
    assert min(map(len, texts)) < 32  # an end of text does come, and ends the text


LOGITS = hypothesis.extra.numpy.arrays(np.int32, (2, 12), elements=st.integers(-200, 200), unique=True).map(
    lambda whole: whole.astype(np.float32) / 25
)


@hypothesis.given(LOGITS, st.integers(1, 15))
@hypothesis.settings(max_examples=40)
def test_top_k_keeps_the_k_likeliest_as_they_are(logits, k):
    cut = np.asarray(_cut(jnp.asarray(logits), k, None))
    for before, after in zip(logits, cut):
        kept = np.isfinite(after)
        assert set(np.flatnonzero(kept)) == set(np.argsort(-before)[:k])
        assert (after[kept] == before[kept]).all()


@hypothesis.given(LOGITS, st.floats(0.01, 1.0))
@hypothesis.settings(max_examples=40)
def test_top_p_keeps_the_fewest_that_hold_the_share(logits, p):
    cut = np.asarray(_cut(jnp.asarray(logits), None, p))
    for before, after in zip(logits, cut):
        share = np.exp(before - before.max(), dtype=np.float64)
        share /= share.sum()
        kept = np.isfinite(after)
        assert kept.any() and (after[kept] == before[kept]).all()
        assert share[kept].min() > share[~kept].max(initial=0)
        assert share[kept].sum() > p - 1e-5
        assert share[kept].sum() - share[kept].min() < p + 1e-5


def test_a_prefix_model_reads_the_prompt_both_ways(tiny_corpus):
    """Decoding with a cache is the full forward pass, in which all see the prompt; a causal reading answers otherwise,
    with the same parameters."""
    predictor, causal = (predictor_of(tiny_corpus, objective, "causal") for objective in (PrefixLM(), CausalLM()))
    prompts, vocab, length = encoded(predictor), predictor.tokenizer.vocab, 64

    @jax.jit
    def forward(tokens, prompt, last):
        inputs = packed_input(
            tokens, jnp.zeros_like(tokens), vocab, causal=True, prefix=jnp.arange(length)[None] < prompt
        )
        return predictor.net.apply({"params": predictor.params}, inputs)[0, last, : vocab.size]

    found = predictor.sample(prompts, GREEDY)
    assert [a.tolist() for a in found] != [b.tolist() for b in causal.sample(prompts, GREEDY)]
    for prompt, text in zip(prompts, found):
        ids = list(prompt)
        while len(ids) < len(prompt) + GREEDY.tokens:
            tokens = np.full((1, length), vocab.pad_id, np.int32)
            tokens[0, : len(ids)] = ids
            logits = np.array(forward(tokens, len(prompt), len(ids) - 1))
            logits[[i for i in vocab.special_ids if i != vocab.eos_id]] = -np.inf
            if logits.argmax() == vocab.eos_id:
                break
            ids.append(int(logits.argmax()))
        assert text.tolist() == ids[len(prompt) :]


def test_masks_are_taken_away_by_the_reverse_process(tiny_corpus):
    """Two tokens in two steps: shares of all pairs among many draws, against an enumeration. Each token comes in the
    first step with probability 1/2, drawn without sight of the other, and else in the second, in sight of it."""
    predictor = predictor_of(tiny_corpus, MaskedDiffusion(), "causal")
    prompt, vocab = encoded(predictor)[1], predictor.tokenizer.vocab
    mask, temperature = vocab.mask_id, 2.0
    forward = jax.jit(lambda tokens: predictor.net.apply({"params": predictor.params}, predictor._packed(tokens)))

    def probabilities(a, b):
        tokens = np.append(prompt, [a, b]).astype(np.int32)[None]
        logits = np.array(forward(tokens)[0, -2:, : vocab.size], np.float64) / temperature
        logits[:, list(vocab.special_ids)] = -np.inf
        logits[logits < np.sort(logits, axis=1)[:, -2:-1]] = -np.inf  # top_k = 2
        share = np.exp(logits - logits.max(axis=1, keepdims=True))
        return share / share.sum(axis=1, keepdims=True)

    blind, expected = probabilities(mask, mask), {}
    add = lambda a, b, share: expected.update({(int(a), int(b)): expected.get((int(a), int(b)), 0.0) + share})
    for a in np.flatnonzero(blind[0]):
        for b in np.flatnonzero(blind[1]):
            add(a, b, blind[0, a] * blind[1, b] / 2)  # together, in either step
        after = probabilities(a, mask)[1]
        for b in np.flatnonzero(after):
            add(a, b, blind[0, a] * after[b] / 4)
    for b in np.flatnonzero(blind[1]):
        after = probabilities(mask, b)[0]
        for a in np.flatnonzero(after):
            add(a, b, blind[1, b] * after[a] / 4)
    assert sum(expected.values()) == pytest.approx(1) and len(expected) > 4
    draws = 4000
    drawn = predictor.sample([prompt] * draws, Sampling(tokens=2, temperature=temperature, top_k=2))
    counts = {}
    for ids in drawn:
        counts[tuple(ids.tolist())] = counts.get(tuple(ids.tolist()), 0) + 1
    assert set(counts) <= set(expected)
    for pair, share in expected.items():
        assert counts.get(pair, 0) / draws == pytest.approx(share, abs=5 * np.sqrt(0.25 / draws))


def test_unmasking_fills_the_whole_text(tiny_corpus):
    predictor = predictor_of(tiny_corpus, MaskedDiffusion(), "mlm")
    prompts, vocab = encoded(predictor), predictor.tokenizer.vocab
    texts = predictor.sample([*prompts, np.zeros(0, np.int32)], Sampling(tokens=12, temperature=0.5))
    assert all(len(ids) == 12 and not set(ids.tolist()) & set(vocab.special_ids) for ids in texts)
    with pytest.raises(UserError, match="model's 64 positions"):
        predictor.sample(prompts, Sampling(tokens=64 - max(map(len, prompts)) + 1))


def test_a_learned_text_comes_back(tiny_corpus):
    """From its first words to its end, where the model stops by itself."""
    text = "Sparse is better than dense, although it is slow."
    optimizer = AdamW(peak_lr=1e-2, schedule=Constant(warmup=5), weight_decay=0.0)
    experiment = small.experiment(tiny_corpus, "causal", optimizer=optimizer)
    pipeline = Pipeline(experiment.data)
    vocab, tokenizer = pipeline.vocab, pipeline.tokenizer
    learner = Learner(experiment, vocab)
    ids = np.append(tokenizer.encode(text), vocab.eos_id).astype(np.int32)
    tokens = np.tile(np.pad(ids, (0, 64 - len(ids)), constant_values=vocab.pad_id), (2, 1))
    state, step = jax.jit(learner.init_state)(np.uint32(0)), jax.jit(learner.train_step)
    for _ in range(60):
        state, metrics = step(state, {"index": np.arange(2, dtype=np.int32), "tokens": tokens})
    assert float(metrics["loss"][0]) < 0.1
    predictor = Predictor(experiment, learner.net, state.params, tokenizer)
    prompts = [tokenizer.encode("Sparse is"), tokenizer.encode("Sparse is better than dense, although")]
    sampling = Sampling(tokens=65 - max(map(len, prompts)), temperature=0)  # all that there are positions for
    for prompt, end in zip(prompts, predictor.sample(prompts, sampling)):
        assert tokenizer.decode([*prompt, *end]) == text


# Masks.


def test_each_mask_is_one_piece_where_it_stood(filler):
    """A space before a mask belongs to the piece that is to be guessed; nothing else moves."""
    encode, mask = filler.tokenizer.encode, filler.tokenizer.vocab.mask_id
    assert filler.encode_masked(f"the {MASK} of it").tolist() == [*encode("the"), mask, *encode(" of it")]
    assert filler.encode_masked(f"{MASK}{MASK}").tolist() == [mask, mask]
    assert filler.encode_masked(f"un{MASK} it").tolist() == [*encode("un"), mask, *encode(" it")]


def test_guesses_are_the_models_distribution(filler):
    """In rows of different lengths at once as alone."""
    texts = [f"the {MASK} of", f"if {MASK} is true then the {MASK} of the expression is " * 2 + "."]
    rows = [filler.encode_masked(text) for text in texts]
    found = filler.fill(rows, top=400)
    assert [len(fills) for fills in found] == [1, 4]
    vocab, size = filler.tokenizer.vocab, filler.tokenizer.vocab.size

    @jax.jit
    def distribution(row):
        logits = filler.net.apply({"params": filler.params}, filler._packed(row[None]))[0, :, :size]
        return jax.nn.softmax(logits.at[:, jnp.asarray(vocab.special_ids)].set(-jnp.inf))

    for row, fills in zip(rows, found):
        probabilities = np.asarray(distribution(row))
        for at, fill in zip(np.flatnonzero(row == vocab.mask_id), fills):
            expected = np.sort(np.asarray(probabilities[at]))[::-1][: size - len(vocab.special_ids)]
            np.testing.assert_allclose(fill.probabilities, expected, rtol=1e-3, atol=1e-6)
            assert sum(fill.probabilities) == pytest.approx(1, abs=1e-4)  # all ordinary pieces
            best = filler.tokenizer.decode([int(probabilities[at].argmax())])
            assert fill.pieces[0] == best
    for fills in filler.fill(rows, top=3):
        assert all(len(fill.pieces) == 3 and sum(fill.probabilities) <= 1 + 1e-6 for fill in fills)


def test_a_hybrid_fills_from_the_left_and_continues(tiny_corpus):
    """One checkpoint, both ways: a mask is filled by the hidden state before it, text goes on as a causal model's."""
    hybrid = predictor_of(tiny_corpus, Hybrid(), "mlm")
    vocab = hybrid.tokenizer.vocab
    forward = jax.jit(lambda inputs: hybrid.net.apply({"params": hybrid.params}, inputs)[0, :, : vocab.size])
    row = hybrid.encode_masked(f"if {MASK} is true then the {MASK} of it")
    logits = forward(hybrid._packed(row[None]))
    probabilities = jax.nn.softmax(logits.at[:, jnp.asarray(vocab.special_ids)].set(-jnp.inf))
    ((*found,),) = hybrid.fill([row], top=5)
    for at, fill in zip(np.flatnonzero(row == vocab.mask_id), found, strict=True):
        np.testing.assert_allclose(fill.probabilities, np.sort(probabilities[at - 1])[:-6:-1], rtol=1e-3)
    with pytest.raises(UserError, match="write a word before the first <mask>"):
        hybrid.fill([hybrid.encode_masked(f"{MASK} it")])
    (prompt,) = encoded(hybrid, PROMPTS[1:2])
    inputs = packed_input(prompt[None], jnp.zeros_like(prompt[None]), vocab, causal=True)
    logits = np.array(forward(inputs)[-1])
    logits[[i for i in vocab.special_ids if i != vocab.eos_id]] = -np.inf
    (text,) = hybrid.sample([prompt], Sampling(tokens=1, temperature=0))
    assert text.tolist() == [logits.argmax()]


def test_mistakes_are_explained(filler, sampler):
    with pytest.raises(UserError, match="no <mask> in 'plain text'"):
        filler.encode_masked("plain text")
    with pytest.raises(UserError, match="model's 64 positions"):
        filler.fill([filler.encode_masked("many words " * 40 + MASK)])
    with pytest.raises(UserError, match="model's 64 positions"):
        sampler.sample(encoded(sampler), Sampling(tokens=64))
    with pytest.raises(UserError, match="MLM does not teach a model to sample: this checkpoint can fill"):
        filler.sample(encoded(filler), GREEDY)
    with pytest.raises(UserError, match="CausalLM does not teach a model to fill: this checkpoint can sample"):
        sampler.fill(encoded(sampler))
    with pytest.raises(UserError, match="prompt is empty"):
        sampler.sample([np.zeros(0, np.int32)], GREEDY)
    for wrong in (dict(tokens=0), dict(temperature=-1.0), dict(top_k=0), dict(top_p=0.0), dict(top_p=1.5)):
        with pytest.raises(UserError):
            sampler.sample(encoded(sampler), Sampling(**wrong))
