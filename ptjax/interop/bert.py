"""BERT (Devlin et al., 2019): transformers' `bert`, and what RoBERTa and ELECTRA share with it."""

from typing import Any

from ptjax.config import UserError
from ptjax.interop.family import Family, need
from ptjax.interop.tables import Entry, Table
from ptjax.models import BERT
from ptjax.models.base import TextModelConfig
from ptjax.objectives import MLM, NSP

# Ours -> (theirs, what transformers takes where it is missing).
FIELDS = {
    "layers": ("num_hidden_layers", 12),
    "width": ("hidden_size", 768),
    "heads": ("num_attention_heads", 12),
    "hidden": ("intermediate_size", 3072),
    "max_length": ("max_position_embeddings", 512),
    "types": ("type_vocab_size", 2),
    "dropout": ("hidden_dropout_prob", 0.1),
    "attention_dropout": ("attention_probs_dropout_prob", 0.1),
    "epsilon": ("layer_norm_eps", 1e-12),
    "std": ("initializer_range", 0.02),
}
# What our bodies do not vary.
FIXED = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


def read(theirs: dict[str, Any], fields: dict[str, tuple[str, Any]], fixed: dict[str, Any]) -> dict[str, Any]:
    """Our fields of a config.json. Raises UserError where it differs from `fixed`."""
    for key, value in fixed.items():
        need(theirs, key, value, default=value)
    return {ours: theirs.get(key, default) for ours, (key, default) in fields.items()}


def write(config: TextModelConfig, fields: dict[str, tuple[str, Any]], fixed: dict[str, Any]) -> dict[str, Any]:
    """The inverse. Raises UserError for a head with a table of its own."""
    if not config.tied:
        raise UserError("tied=False: the published models of this family score with the embedding table, and no other")
    return {key: getattr(config, ours) for ours, (key, _) in fields.items()} | fixed


def dense(ours: str, theirs: str, **more) -> tuple[Entry, Entry]:
    return (
        Entry(f"{ours}/kernel", f"{theirs}.weight", "linear", **more),
        Entry(f"{ours}/bias", f"{theirs}.bias", "flat", layers=more.get("layers", ())),
    )


def norm(ours: str, theirs: str, **more) -> tuple[Entry, Entry]:
    return Entry(f"{ours}/scale", f"{theirs}.weight", **more), Entry(f"{ours}/bias", f"{theirs}.bias", **more)


def embeddings(prefix: str, config: TextModelConfig) -> tuple[Entry, ...]:
    """Tables and their norm. prefix: before the body's names, with its dot."""
    types = Entry("body/embed/types", f"{prefix}embeddings.token_type_embeddings.weight")
    return (
        Entry("body/embed/tokens", f"{prefix}embeddings.word_embeddings.weight", "table"),
        Entry("body/embed/positions", f"{prefix}embeddings.position_embeddings.weight"),
        *((types,) if config.types else ()),
        *norm("body/embed_norm", f"{prefix}embeddings.LayerNorm"),
    )


def blocks(prefix: str, count: int) -> tuple[Entry, ...]:
    """All layers."""
    ours, theirs, layers = "body/layers/block", f"{prefix}encoder.layer.{{layer}}", tuple(range(count))
    return (
        *dense(f"{ours}/attention/query", f"{theirs}.attention.self.query", layers=layers),
        *dense(f"{ours}/attention/key", f"{theirs}.attention.self.key", layers=layers),
        *dense(f"{ours}/attention/value", f"{theirs}.attention.self.value", layers=layers),
        *dense(f"{ours}/attention/output", f"{theirs}.attention.output.dense", inputs=2, layers=layers),
        *norm(f"{ours}/attention_norm", f"{theirs}.attention.output.LayerNorm", layers=layers),
        *dense(f"{ours}/mlp/up", f"{theirs}.intermediate.dense", layers=layers),
        *dense(f"{ours}/mlp/down", f"{theirs}.output.dense", layers=layers),
        *norm(f"{ours}/mlp_norm", f"{theirs}.output.LayerNorm", layers=layers),
    )


class BertFamily(Family):
    model_type = "bert"
    body = BERT
    architectures = {
        "BertModel": frozenset({"body", "pooler"}),
        "BertForMaskedLM": frozenset({"body", "head"}),
        "BertForPreTraining": frozenset({"body", "head", "pooler", "next_sentence"}),
    }

    def config(self, theirs: dict[str, Any]) -> BERT:
        return BERT(**read(theirs, FIELDS, FIXED))

    def describe(self, config: BERT, rows: int) -> dict[str, Any]:
        return write(config, FIELDS, FIXED) | {"vocab_size": rows}

    def table(self, config: BERT) -> Table:
        prediction = "cls.predictions"
        return Table(
            (
                *embeddings("bert.", config),
                *blocks("bert.", config.layers),
                *dense("pooler/dense", "bert.pooler.dense"),
                *dense("head/dense", f"{prediction}.transform.dense"),
                *norm("head/norm", f"{prediction}.transform.LayerNorm"),
                Entry("head/bias", f"{prediction}.bias", "table"),
                *dense("next_sentence", "cls.seq_relationship"),
            ),
            copies={
                f"{prediction}.decoder.weight": "bert.embeddings.word_embeddings.weight",
                f"{prediction}.decoder.bias": f"{prediction}.bias",
            },
            buffers=(r"(bert\.)?embeddings\.position_ids",),
            prefix="bert.",
        )

    def objective(self, parts: frozenset[str]) -> MLM:
        return NSP() if "next_sentence" in parts else MLM()
