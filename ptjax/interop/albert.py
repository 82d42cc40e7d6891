"""ALBERT (Lan et al., 2020): transformers' `albert`."""

from typing import Any

from ptjax.interop.bert import FIELDS, FIXED, dense, embeddings, norm, read, write
from ptjax.interop.family import Family, need
from ptjax.interop.tables import Entry, Table
from ptjax.models import ALBERT
from ptjax.objectives import MLM, SOP

# What transformers takes where a key is missing is the xxlarge model's.
OWN_FIELDS = FIELDS | {
    "width": ("hidden_size", 4096),
    "heads": ("num_attention_heads", 64),
    "hidden": ("intermediate_size", 16384),
    "dropout": ("hidden_dropout_prob", 0.0),
    "attention_dropout": ("attention_probs_dropout_prob", 0.0),
    "embedding": ("embedding_size", 128),
}
# All layers are one, once a layer.
OWN_FIXED = {key: value for key, value in FIXED.items() if key != "hidden_act"} | {
    "num_hidden_groups": 1,
    "inner_group_num": 1,
}
ACTIVATIONS = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "exact"}


class AlbertFamily(Family):
    model_type = "albert"
    body = ALBERT
    architectures = {
        "AlbertModel": frozenset({"body", "pooler"}),
        "AlbertForMaskedLM": frozenset({"body", "head"}),
        "AlbertForPreTraining": frozenset({"body", "head", "pooler", "sentence_order"}),
    }

    def config(self, theirs: dict[str, Any]) -> ALBERT:
        activation = need(theirs, "hidden_act", *ACTIVATIONS, default="gelu_new")
        return ALBERT(gelu=ACTIVATIONS[activation], **read(theirs, OWN_FIELDS, OWN_FIXED))

    def describe(self, config: ALBERT, rows: int) -> dict[str, Any]:
        activation = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.gelu)
        return write(config, OWN_FIELDS, OWN_FIXED) | {"vocab_size": rows, "hidden_act": activation}

    def table(self, config: ALBERT) -> Table:
        ours, theirs = "body/layer/block", "albert.encoder.albert_layer_groups.0.albert_layers.0"
        return Table(
            (
                *embeddings("albert.", config),
                *dense("body/projection", "albert.encoder.embedding_hidden_mapping_in"),
                *dense(f"{ours}/attention/query", f"{theirs}.attention.query"),
                *dense(f"{ours}/attention/key", f"{theirs}.attention.key"),
                *dense(f"{ours}/attention/value", f"{theirs}.attention.value"),
                *dense(f"{ours}/attention/output", f"{theirs}.attention.dense", inputs=2),
                *norm(f"{ours}/attention_norm", f"{theirs}.attention.LayerNorm"),
                *dense(f"{ours}/mlp/up", f"{theirs}.ffn"),
                *dense(f"{ours}/mlp/down", f"{theirs}.ffn_output"),
                *norm(f"{ours}/mlp_norm", f"{theirs}.full_layer_layer_norm"),
                *dense("pooler/dense", "albert.pooler"),
                *dense("head/dense", "predictions.dense"),
                *norm("head/norm", "predictions.LayerNorm"),
                Entry("head/bias", "predictions.bias", "table"),
                *dense("sentence_order", "sop_classifier.classifier"),
            ),
            copies={
                "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
                "predictions.decoder.bias": "predictions.bias",
            },
            buffers=(r"(albert\.)?embeddings\.position_ids",),
            prefix="albert.",
        )

    def objective(self, parts: frozenset[str]) -> MLM:
        return SOP() if "sentence_order" in parts else MLM()
