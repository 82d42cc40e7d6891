"""Law 8: the numbers of published implementations, frozen by tests/fixtures/make_parity.py."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptjax.data.tokenizers import VocabSpec
from ptjax.models.bert import BERT
from ptjax.models.gpt import GPT
from ptjax.models.heads import init
from ptjax.objectives import MLM, CausalLM, StepContext
from ptjax.objectives.cross_entropy import cross_entropy
from ptjax.types import Mask, TextInput

FIXTURES = Path(__file__).parents[1] / "fixtures"
VOCAB = VocabSpec.synthetic(200)
SHAPE = dict(layers=2, width=24, heads=4, hidden=48, max_length=40, dropout=0.0, attention_dropout=0.0)
BODIES = {"bert": BERT(**SHAPE), "gpt": GPT(**SHAPE)}
OBJECTIVES = {"bert": MLM(rate=0.8), "gpt": CausalLM()}
PADDING = 7.0  # what fills up the vocabulary's tables: so large that it shows wherever it counts

# ptjax's modules by Hugging Face's names; "{}" is the layer, a last number the third of a matrix that is three in one.
NAMES = {
    "bert": {
        "body.embed.tokens": "bert.embeddings.word_embeddings.weight",
        "body.embed.positions": "bert.embeddings.position_embeddings.weight",
        "body.embed.types": "bert.embeddings.token_type_embeddings.weight",
        "body.embed_norm": "bert.embeddings.LayerNorm",
        "body.layers.block.attention.query": "bert.encoder.layer.{}.attention.self.query",
        "body.layers.block.attention.key": "bert.encoder.layer.{}.attention.self.key",
        "body.layers.block.attention.value": "bert.encoder.layer.{}.attention.self.value",
        "body.layers.block.attention.output": "bert.encoder.layer.{}.attention.output.dense",
        "body.layers.block.attention_norm": "bert.encoder.layer.{}.attention.output.LayerNorm",
        "body.layers.block.mlp.up": "bert.encoder.layer.{}.intermediate.dense",
        "body.layers.block.mlp.down": "bert.encoder.layer.{}.output.dense",
        "body.layers.block.mlp_norm": "bert.encoder.layer.{}.output.LayerNorm",
        "head.dense": "cls.predictions.transform.dense",
        "head.norm": "cls.predictions.transform.LayerNorm",
        "head": "cls.predictions",
    },
    "gpt": {
        "body.embed.tokens": "transformer.wte.weight",
        "body.embed.positions": "transformer.wpe.weight",
        "body.layers.block.attention_norm": "transformer.h.{}.ln_1",
        "body.layers.block.attention.query": "transformer.h.{}.attn.c_attn 0",
        "body.layers.block.attention.key": "transformer.h.{}.attn.c_attn 1",
        "body.layers.block.attention.value": "transformer.h.{}.attn.c_attn 2",
        "body.layers.block.attention.output": "transformer.h.{}.attn.c_proj",
        "body.layers.block.mlp_norm": "transformer.h.{}.ln_2",
        "body.layers.block.mlp.up": "transformer.h.{}.mlp.c_fc",
        "body.layers.block.mlp.down": "transformer.h.{}.mlp.c_proj",
        "body.norm": "transformer.ln_f",
    },
}


class Case:
    """One model: its frozen numbers, ptjax's net, and its documents padded in rows and packed in one row."""

    def __init__(self, model: str):
        self.model, self.objective = model, OBJECTIVES[model]
        self.frozen = dict(np.load(FIXTURES / f"parity_{model}.npz"))
        self.net = self.objective.net(BODIES[model], VOCAB)
        self.params = self.tree("weight", PADDING)

    def tree(self, kind: str, padding: float) -> dict:
        """The frozen weights or gradients as a tree of ptjax's parameters, vocabulary filled up with `padding`."""

        names = NAMES[self.model]

        def leaf(path, target):
            path = [key.key for key in path]
            name = names.get(".".join(path)) or names[".".join(path[:-1])]
            name, _, third = name.partition(" ")
            if not name.endswith(".weight"):
                name += ".bias" if path[-1] == "bias" else ".weight"
            values = [self.frozen[f"{kind}/{name.format(i)}"] for i in range(SHAPE["layers"] if "{}" in name else 1)]
            if third:
                values = [np.split(value, 3, axis=-1)[int(third)] for value in values]
            if path[-1] == "kernel" and self.model == "bert":
                values = [value.T for value in values]  # PyTorch's Linear is [out, in], GPT-2's Conv1D [in, out]
            value = np.stack(values) if "{}" in name else values[0]
            if "tokens" in path or path == ["head", "bias"]:
                rows = [(0, target.shape[0] - len(value))] + [(0, 0)] * (value.ndim - 1)
                value = np.pad(value, rows, constant_values=padding)
            return jnp.asarray(value.reshape(target.shape), jnp.float32)

        shapes = jax.eval_shape(lambda: init(self.net, jax.random.key(0), 8))
        return jax.tree_util.tree_map_with_path(leaf, shapes)

    def rows(self, layout: str) -> dict[str, np.ndarray]:
        """tokens, types, labels (the answer at each asked position, else -100), positions, valid, segments: [B, L]."""
        f = self.frozen
        place = np.broadcast_to(np.arange(f["tokens"].shape[1]), f["tokens"].shape)
        labels = f["labels"]
        if self.model == "gpt":  # each token answers its predecessor
            labels = np.concatenate([labels[:, 1:], np.full_like(labels[:, :1], -100)], axis=1)
        rows = {"tokens": f["tokens"], "types": f["types"], "labels": labels, "positions": place, "valid": f["valid"]}
        rows["segments"] = np.broadcast_to(np.arange(len(place))[:, None], place.shape)
        if layout == "packed":
            rows = {name: value[f["valid"]][None] for name, value in rows.items()}
        return {name: value.astype(bool if name == "valid" else np.int32) for name, value in rows.items()}

    def inputs(self, layout: str) -> TextInput:
        rows = self.rows(layout)
        causal = self.model == "gpt"
        if layout == "packed":
            mask = Mask(causal=causal, segments=rows["segments"])
        else:
            mask = Mask(causal=causal, valid=rows["valid"])
        return TextInput(rows["tokens"], rows["positions"], mask, None if causal else rows["types"])

    def loss(self, params, layout: str):
        labels = self.rows(layout)["labels"]
        hidden = self.net.apply({"params": params}, self.inputs(layout), method="hidden").last
        scores = self.net.apply({"params": params}, hidden[labels >= 0], method="scores")
        return cross_entropy(*scores, labels[labels >= 0], size=VOCAB.size).loss.mean()


@pytest.fixture(scope="module", params=BODIES)
def case(request):
    return Case(request.param)


LAYOUTS = pytest.mark.parametrize("layout", ["padded", "packed"])


@LAYOUTS
def test_logits(case, layout):
    logits = jax.jit(case.net.apply)({"params": case.params}, case.inputs(layout))
    logits = np.asarray(logits)[case.rows(layout)["valid"]][:, : VOCAB.size]
    assert case.frozen["logits"].std() > 1  # there is something to compare
    np.testing.assert_allclose(logits, case.frozen["logits"], rtol=1e-4, atol=1e-4)


@LAYOUTS
def test_loss_and_gradient(case, layout):
    loss, gradient = jax.jit(jax.value_and_grad(functools.partial(case.loss, layout=layout)))(case.params)
    np.testing.assert_allclose(loss, case.frozen["loss"], rtol=1e-4)
    frozen = case.tree("gradient", 0.0)  # and none for the padding of the vocabulary
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(frozen))

    def check(path, ours, theirs):
        scale = np.abs(theirs).max()
        # A key's bias has no gradient but rounding: it moves all scores of a query alike.
        np.testing.assert_allclose(
            ours, theirs, rtol=0, atol=1e-3 * scale + 1e-6 * largest, err_msg=jax.tree_util.keystr(path)
        )

    jax.tree_util.tree_map_with_path(check, gradient, frozen)


@LAYOUTS
def test_objective(case, layout):
    """The same loss as the objectives compute it: they find documents and padding in the tokens themselves."""
    rows = case.rows(layout)
    tokens, labels = rows["tokens"], rows["labels"]
    batch = {"tokens": tokens}
    if case.model == "bert":
        most = (labels >= 0).sum(axis=1).max()
        positions = np.argsort(labels < 0, axis=1, kind="stable")[:, :most]  # the asked ones first
        weights = (np.take_along_axis(labels, positions, axis=1) >= 0).astype(np.float32)
        batch |= {"original": np.where(labels >= 0, labels, tokens), "positions": positions, "weights": weights}
    context = StepContext(VOCAB)
    batch = {name: jnp.asarray(value) for name, value in batch.items()}
    losses = jax.jit(lambda params: case.objective.losses(case.net, {"params": params}, batch, context))(case.params)
    (total,) = losses.totals.values()
    (weight,) = case.objective.weights(batch, VOCAB).values()
    np.testing.assert_allclose(total / weight, case.frozen["loss_without_types"], rtol=1e-4)
