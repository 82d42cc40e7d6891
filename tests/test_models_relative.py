"""Transformer-XL against the numbers of a published implementation (tests/fixtures/make_transformer_xl.py), and what of
XLNet's is not in those of all families (tests/interop/test_families.py); a memory is as good as a longer row, and ends
where its document ends."""

import functools
from pathlib import Path

import chz
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from ptjax.config import UserError
from ptjax.data.tokenizers import VocabSpec
from ptjax.interop.tables import Entry
from ptjax.models import TransformerXL, XLNet
from ptjax.models.heads import init, language_model, new_cache, new_memory
from ptjax.nn.attention import allowed
from ptjax.nn.relative import relate
from ptjax.objectives import CausalLM, StepContext
from ptjax.objectives.causal import next_token_scores
from ptjax.types import Mask, Memory, TextInput
from tests.interop import parity

FIXTURE = Path(__file__).parent / "fixtures" / "transformer_xl.npz"
SHAPE = dict(layers=2, width=24, heads=4, hidden=48, dropout=0.0, attention_dropout=0.0, unroll=False)
VOCAB = 60


def block(ours: str, theirs: str, *layout: str, **more) -> Entry:
    return Entry(f"body/layers/block/{ours}", f"layers.{{layer}}.{theirs}", *layout, layers=(0, 1), **more)


# Of transformers' class, which its later versions lack: here for its numbers alone.
TABLE = (
    Entry("body/embed/tokens", "word_emb.emb_layers.0.weight", "table"),
    block("attention/query/kernel", "dec_attn.qkv_net.weight", "linear", part=(0, 3)),
    block("attention/key/kernel", "dec_attn.qkv_net.weight", "linear", part=(1, 3)),
    block("attention/value/kernel", "dec_attn.qkv_net.weight", "linear", part=(2, 3)),
    block("attention/output/kernel", "dec_attn.o_net.weight", "linear", inputs=2),
    block("attention/distance/kernel", "dec_attn.r_net.weight", "linear"),
    block("attention/content_bias", "dec_attn.r_w_bias"),
    block("attention/position_bias", "dec_attn.r_r_bias"),
    block("attention_norm/scale", "dec_attn.layer_norm.weight"),
    block("attention_norm/bias", "dec_attn.layer_norm.bias"),
    block("mlp/up/kernel", "pos_ff.CoreNet.0.weight", "linear"),
    block("mlp/up/bias", "pos_ff.CoreNet.0.bias"),
    block("mlp/down/kernel", "pos_ff.CoreNet.3.weight", "linear"),
    block("mlp/down/bias", "pos_ff.CoreNet.3.bias"),
    block("mlp_norm/scale", "pos_ff.layer_norm.weight"),
    block("mlp_norm/bias", "pos_ff.layer_norm.bias"),
)


def net_of(config):
    return language_model(config, VOCAB, transform=False, bias=False)


class Frozen:
    """Transformer-XL's frozen numbers, and ptjax's net with its weights; rows that pad the vocabulary are large."""

    def __init__(self):
        self.config = TransformerXL(memory=15, **SHAPE)
        self.net = net_of(self.config)
        self.frozen = dict(np.load(FIXTURE))
        shapes = jax.eval_shape(lambda: init(self.net, jax.random.key(0), 8))
        leaves = {path: np.full(x.shape, 7.0, np.float32) for path, x in flatten_dict(shapes, sep="/").items()}
        assert leaves.keys() == {entry.ours for entry in TABLE}
        for entry in TABLE:
            leaf = leaves[entry.ours]
            for index, name in entry.tensors():
                value = entry.ours_of(self.frozen[f"weight/{name}"], leaf.shape[entry.stacked :])
                leaf[index][: len(value)] = value
        self.params = jax.tree.map(jnp.asarray, unflatten_dict(leaves, sep="/"))


@functools.cache
def transformer_xl() -> Frozen:
    return Frozen()


def xlnet() -> parity.Parity:
    return parity.frozen("xlnet", unroll=False)


def hidden_of(case, params, inputs, state=None):
    return case.net.apply({"params": params}, inputs, state, method="hidden")


def text(tokens, mask, **more) -> TextInput:
    return TextInput(tokens, np.zeros_like(tokens), mask, **more)  # neither model reads positions


def changed(case: parity.Parity, **change):
    """Its net under another config."""
    return case.objective.net(chz.replace(case.config, **change), VocabSpec.synthetic(case.rows))


@pytest.mark.parametrize("name", ["plain", "typed", "gelu_new"])
def test_xlnet_in_one_stream(name):
    case = xlnet()
    expected, valid = case.expected("one_stream")[name], case.frozen["valid"]
    inputs = case.inputs().replace(targets=None)
    inputs = inputs.replace(types=None) if name == "plain" else inputs
    net = changed(case, activation="gelu_tanh") if name == "gelu_new" else case.net
    hidden = jax.jit(lambda params: net.apply({"params": params}, inputs, method="hidden").last)(case.params)
    padded, packed = hidden[:-1, : valid.shape[1]][valid], hidden[-1]
    assert expected.std() > 0.3
    np.testing.assert_allclose(padded, expected, atol=1e-4)
    np.testing.assert_allclose(packed, expected, atol=1e-4)


@functools.cache
def permuted(unroll: bool, remat: str):
    """(logits of the targets of a partly permuted order, the gradient of the sum of their tanh)."""
    case = xlnet()
    net, f = changed(case, unroll=unroll, remat=remat), case.frozen
    order, targets = (case.expected("two_streams")[name].astype(np.int32) for name in ("order", "targets"))
    more = dict(types=f["types"].astype(np.int32), targets=targets)
    inputs = text(f["tokens"].astype(np.int32), Mask(valid=f["valid"], order=order), **more)

    def loss(params):
        queries = net.apply({"params": params}, inputs, method="hidden").queries
        logits = net.apply({"params": params}, queries, method="logits")[..., : case.rows]
        return jnp.tanh(logits).sum(), logits

    gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(case.params)
    return logits, case.published(gradient)


# Layers in a loop, and written out and recomputed.
WAYS = [(False, "none"), (True, "full")]


@pytest.mark.parametrize("unroll,remat", WAYS)
def test_xlnet_in_two_streams(unroll, remat):
    (logits, gradients), f = permuted(unroll, remat), xlnet().expected("two_streams")
    assert f["logits"].std() > 1
    np.testing.assert_allclose(logits, f["logits"], atol=1e-4)
    frozen = xlnet().expected("two_streams/gradient")
    assert len(frozen) == 6
    for name, theirs in frozen.items():
        np.testing.assert_allclose(gradients[name], theirs, atol=1e-3 * np.abs(theirs).max(), err_msg=name)


def test_how_layers_run_does_not_matter():
    (logits, gradients), (other, other_gradients) = (permuted(*way) for way in WAYS)
    np.testing.assert_allclose(logits, other, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), gradients, other_gradients)


@functools.cache
def reader():
    return jax.jit(functools.partial(hidden_of, transformer_xl()))


def test_transformer_xl_with_a_memory_over_three_rows():
    case = transformer_xl()
    memory = new_memory(case.config, 2)
    for tokens, expected in zip(case.frozen["tokens"].astype(np.int32), case.frozen["hidden"]):
        hidden = reader()(case.params, text(tokens, Mask(causal=True)), memory)
        np.testing.assert_allclose(hidden.last, expected, atol=1e-4)
        memory = hidden.state
    assert np.asarray(memory.open).all()


def test_a_memory_is_as_good_as_a_longer_row():
    case = transformer_xl()
    tokens = np.random.default_rng(0).integers(7, VOCAB, (2, 24)).astype(np.int32)
    whole = jax.jit(functools.partial(hidden_of, case))(case.params, text(tokens, Mask(causal=True)))
    assert whole.state is None
    first = reader()(case.params, text(tokens[:, :12], Mask(causal=True)), new_memory(case.config, 2))
    second = reader()(case.params, text(tokens[:, 12:], Mask(causal=True)), first.state)
    np.testing.assert_allclose(np.concatenate([first.last, second.last], axis=1), whole.last, atol=1e-5)
    closed = first.state.replace(open=jnp.zeros_like(first.state.open))
    alone = reader()(case.params, text(tokens[:, 12:], Mask(causal=True)), closed)
    assert np.abs(alone.last - second.last).max() > 0.1


# Where boundaries stand in two rows of 12: inside, at the end of the first, at the beginning of the second, and all of
# them; without one the document fills both rows.
BOUNDARIES = [(), (4,), (11,), (12,), (0, 15), (4, 11, 23), (4, 12, 15)]


@functools.cache
def losses_of(side: str):
    vocab, objective = VocabSpec.synthetic(VOCAB, side), CausalLM()
    config = chz.replace(transformer_xl().config, memory=20)
    net = objective.net(config, vocab)
    context = StepContext(vocab)
    params = transformer_xl().params

    @jax.jit
    def of_row(tokens, memory):
        losses = objective.losses(net, {"params": params}, {"tokens": tokens, "memory": memory}, context)
        return losses.totals["causal"], losses.memory

    @jax.jit
    def of_whole(tokens):
        inputs = objective.inputs({"tokens": tokens}, vocab)
        scores, _ = next_token_scores(net, {"params": params}, inputs, tokens, context)
        asked = objective.inputs({"tokens": tokens}, vocab).mask.segments
        return scores.loss * (asked[0, 1:] == asked[0, :-1])

    return vocab, new_memory(config, 1), of_row, of_whole


@pytest.mark.parametrize("side", ["end", "begin"])
def test_documents_go_on_through_the_memory_and_no_further(side):
    """The loss of two rows with a memory is that of one row of twice the length, but for the token between them."""
    vocab, empty, of_row, of_whole = losses_of(side)
    for boundaries in BOUNDARIES:
        tokens = np.random.default_rng(1).integers(7, VOCAB, (1, 24)).astype(np.int32)
        tokens[0, list(boundaries)] = vocab.boundary_id
        first, memory = of_row(tokens[:, :12], empty)
        second, _ = of_row(tokens[:, 12:], memory)
        whole = np.asarray(of_whole(tokens))
        np.testing.assert_allclose(first, whole[:11].sum(), rtol=1e-5)
        np.testing.assert_allclose(second, whole[12:].sum(), rtol=1e-5, err_msg=str(boundaries))
        # Another token in the first row changes the second row's loss only where its document goes on to a prediction.
        document = np.cumsum([i in boundaries for i in range(24)])
        document -= [side == "end" and i in boundaries for i in range(24)]
        for at in {1, 6, 10} - set(boundaries):
            seen = any(document[at] == document[i] == document[i + 1] for i in range(12, 23))
            other = tokens.copy()
            other[0, at] = 8 if tokens[0, at] == 7 else 7
            changed = of_row(other[:, 12:], of_row(other[:, :12], empty)[1])[0]
            assert bool(changed != second) == seen, (boundaries, at)


def test_no_gradient_reaches_the_memory():
    case = transformer_xl()
    tokens = case.frozen["tokens"][0].astype(np.int32)
    memory = new_memory(case.config, 2)
    memory = Memory(memory.hidden + 0.5, ~memory.open, memory.index)

    def loss(hidden, scale):
        state = memory.replace(hidden=hidden * scale)
        return jnp.sum(hidden_of(case, case.params, text(tokens, Mask(causal=True)), state).last ** 3)

    value = jax.jit(jax.value_and_grad(loss))
    (before, gradient), (after, _) = value(memory.hidden, 1.0), value(memory.hidden, -1.0)
    assert before != after and (np.asarray(gradient) == 0).all()


def test_memory_under_segments_and_padding():
    """What stays open, and what sees it, for a row of documents 0 0 1 1 and padding behind a memory of 3."""
    memory = Memory(None, jnp.array([[False, True, True]]), jnp.array([0]))
    segments = jnp.array([[0, 0, 1, 1, 1]])
    mask = Mask(causal=True, segments=segments, valid=jnp.array([[True] * 4 + [False]]))
    inputs = text(np.zeros((1, 5), np.int32), mask)
    seen = np.asarray(relate(inputs, 8, memory).row.allowed)[0, 0]
    expected = [
        [0, 1, 1, 1, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 0],
    ]
    np.testing.assert_array_equal(seen[:4], np.array(expected, bool))
    config = TransformerXL(memory=3, **SHAPE)
    state = new_memory(config, 1).replace(open=memory.open)
    params = transformer_xl().params
    net = net_of(config)
    after = jax.jit(lambda: net.apply({"params": params}, inputs, state, method="hidden").state)()
    np.testing.assert_array_equal(after.open, [[True, True, False]])


@pytest.mark.parametrize("case", [xlnet, transformer_xl], ids=lambda case: case.__name__)
def test_cache_in_any_pieces(case):
    case = case()
    tokens = np.random.default_rng(2).integers(7, VOCAB, (2, 16)).astype(np.int32)
    valid = np.arange(20) >= np.array([[0], [3]])  # padding stands on the left, as in sampling
    read = jax.jit(functools.partial(hidden_of, case))
    expected = read(case.params, text(tokens, Mask(causal=True, valid=valid[:, :16]))).last
    cache, parts = new_cache(case.config, 2, 20), []
    for piece in (slice(0, 8), slice(8, 16)):
        hidden = read(case.params, text(tokens[:, piece], Mask(causal=True, valid=valid)), cache)
        cache = hidden.state
        parts.append(hidden.last)
    ours = np.concatenate(parts, axis=1)
    np.testing.assert_allclose(ours[valid[:, :16]], np.asarray(expected)[valid[:, :16]], atol=1e-5)


def test_a_scattered_row_is_the_row_in_order():
    """Its tokens in any places, with the positions that they had: the same hidden states in those places."""
    case = xlnet()
    tokens = np.random.default_rng(3).integers(7, VOCAB, (2, 16)).astype(np.int32)
    order = np.stack([np.random.default_rng(i).permutation(16) for i in (4, 5)]).astype(np.int32)
    moved = np.take_along_axis(tokens, order, axis=1)
    straight, scattered = (
        jax.jit(functools.partial(hidden_of, case))(case.params, inputs).last
        for inputs in (text(tokens, Mask()), TextInput(moved, order, Mask(), scattered=True))
    )
    assert np.abs(np.asarray(straight)[:, 1:] - straight[:, :-1]).max() > 0.1
    np.testing.assert_allclose(scattered, np.take_along_axis(np.asarray(straight), order[..., None], axis=1), atol=1e-5)
    with pytest.raises(ValueError, match="a scattered row is read alone"):
        relate(TextInput(moved, order, Mask(), scattered=True, targets=order), 8)


def test_transformer_xl_ignores_sentence_types():
    case = transformer_xl()
    tokens = np.random.default_rng(2).integers(7, VOCAB, (1, 8)).astype(np.int32)
    plain, typed = (
        hidden_of(case, case.params, text(tokens, Mask(), types=types)).last for types in (None, tokens % 2)
    )
    np.testing.assert_array_equal(plain, typed)


def test_masks_without_targets_are_those_of_all_attention():
    mask = Mask(causal=True, prefix=np.array([[True, True, False, False]]), segments=np.array([[0, 0, 0, 1]]))
    relations = relate(text(np.zeros((1, 4), np.int32), mask), 8)
    np.testing.assert_array_equal(relations.row.allowed, allowed(mask, 4, 4))
    assert len(relations.encodings) == 8 and relations.targets is None  # distances of both signs
    assert len(relate(text(np.zeros((1, 4), np.int32), Mask(causal=True)), 8).encodings) == 5


def test_a_target_does_not_see_its_own_rank():
    order, targets = np.array([[0, 1, 1, 2]], np.int32), np.array([[1, 3]], np.int32)
    seen = relate(text(np.zeros((1, 4), np.int32), Mask(order=order), targets=targets), 8).targets.allowed
    np.testing.assert_array_equal(np.asarray(seen)[0, 0], np.array([[1, 0, 0, 0], [1, 1, 1, 0]], bool))


def test_published_sizes():
    """Parameters of xlnet-base-cased and xlnet-large-cased (the lm_loss bias aside), and of Transformer-XL's layers."""

    def millions(config, vocab, part=None):
        inputs = text(np.zeros((1, 8), np.int32), Mask())
        shapes = jax.eval_shape(lambda: config.build(vocab).init(jax.random.key(0), inputs, train=False))["params"]
        return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes if part is None else shapes[part])) / 1e6

    assert millions(XLNet.preset("base"), 32000) == pytest.approx(116.72, abs=0.01)
    assert millions(XLNet.preset("large"), 32000) == pytest.approx(360.27, abs=0.01)
    # 5 d_model^2 + 2 d_model d_inner + d_inner + 7 d_model a layer, by the shapes of the published code
    assert millions(TransformerXL.preset("wt103"), 100, "layers") == pytest.approx(41.08, abs=0.01)
    # 41M and 277M in the paper, with embeddings of 204 characters
    assert millions(TransformerXL.preset("enwik8-12"), 204) == pytest.approx(41, abs=0.5)
    assert millions(TransformerXL.preset("enwik8-24"), 204) == pytest.approx(277, abs=0.5)


def test_impossible_settings():
    with pytest.raises(UserError, match="wt103"):
        TransformerXL.preset("huge")
    with pytest.raises(ValueError, match="memory must be at least 0"):
        TransformerXL(memory=-1)
    XLNet().check_length(10_000)
    with pytest.raises(ValueError, match="TransformerXL"):
        hidden_of(
            xlnet(), xlnet().params, text(np.zeros((2, 4), np.int32), Mask()), new_memory(transformer_xl().config, 2)
        )
