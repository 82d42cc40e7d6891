"""DeBERTa v2 and v3 (He et al., 2021, 2023): transformers' `deberta-v2`."""

import re
from typing import Any

from ptjax.config import UserError
from ptjax.interop.bert import dense, norm, read, write
from ptjax.interop.family import Family, need
from ptjax.interop.tables import Entry, Table
from ptjax.models import DeBERTa
from ptjax.objectives import MLM

# Ours -> (theirs, what transformers takes where it is missing).
FIELDS = {
    "layers": ("num_hidden_layers", 24),
    "width": ("hidden_size", 1536),
    "heads": ("num_attention_heads", 24),
    "hidden": ("intermediate_size", 6144),
    "max_length": ("max_position_embeddings", 512),
    "absolute": ("position_biased_input", True),
    "types": ("type_vocab_size", 0),
    "taps": ("conv_kernel_size", 0),
    "dropout": ("hidden_dropout_prob", 0.1),
    "attention_dropout": ("attention_probs_dropout_prob", 0.1),
    "epsilon": ("layer_norm_eps", 1e-7),
    "std": ("initializer_range", 0.02),
}
# What our body does not vary: it is written, and what is missing in a file is not taken for it.
FIXED = {"relative_attention": True, "share_att_key": True, "norm_rel_ebd": "layer_norm"}
HEAD, LEGACY = "lm_predictions.lm_head", "cls.predictions"
COPIES = {
    **{
        f"{LEGACY}.transform.{name}": f"{HEAD}.{name}"
        for name in ("dense.weight", "dense.bias", "LayerNorm.weight", "LayerNorm.bias")
    },
    f"{LEGACY}.bias": f"{HEAD}.bias",
    f"{LEGACY}.decoder.bias": f"{HEAD}.bias",
    f"{LEGACY}.decoder.weight": "deberta.embeddings.word_embeddings.weight",
}


class DebertaV2Family(Family):
    """The head's tensors have the authors' names, as in the published models, or those of BERT's head, as transformers
    writes them with `legacy`; either way they are read, and the authors' are written. The published third version has
    besides the head that detected replacements, which is not ours and is left out, as transformers leaves it."""

    model_type = "deberta-v2"
    body = DeBERTa
    architectures = {
        "DebertaV2Model": frozenset({"body"}),
        "DebertaV2ForMaskedLM": frozenset({"body", "head"}),
    }

    def config(self, theirs: dict[str, Any]) -> DeBERTa:
        for key, value in FIXED.items():
            need(theirs, key, value)
        fields = read(theirs, FIELDS, {"hidden_act": "gelu", "tie_word_embeddings": True})
        terms = theirs.get("pos_att_type") or ()
        terms = terms.lower().split("|") if isinstance(terms, str) else terms
        if {term.strip() for term in terms} != {"c2p", "p2c"}:
            raise UserError(f"config.json has pos_att_type={theirs.get('pos_att_type')!r}: ptjax knows 'p2c|c2p' alone")
        width = fields["width"]
        need(theirs, "embedding_size", width, default=width)
        need(theirs, "attention_head_size", width // fields["heads"], default=width // fields["heads"])
        if fields["taps"]:
            need(theirs, "conv_act", "gelu", default="tanh")
            need(theirs, "conv_groups", 1, default=1)
        buckets, furthest = (theirs.get(key, -1) for key in ("position_buckets", "max_relative_positions"))
        furthest = furthest if furthest > 0 else fields["max_length"]
        return DeBERTa(buckets=max(buckets, 0), furthest=furthest, **fields)

    def describe(self, config: DeBERTa, rows: int) -> dict[str, Any]:
        described = write(config, FIELDS, FIXED) | {
            "vocab_size": rows,
            "hidden_act": "gelu",
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": config.buckets or -1,
            "max_relative_positions": config.furthest,
            "legacy": False,
        }
        return described | ({"conv_act": "gelu", "conv_groups": 1} if config.taps else {})

    def table(self, config: DeBERTa) -> Table:
        embeddings, encoder = "deberta.embeddings", "deberta.encoder"
        entries = [
            Entry("body/embed/tokens", f"{embeddings}.word_embeddings.weight", "table"),
            *norm("body/embed_norm", f"{embeddings}.LayerNorm"),
            Entry("body/distances", f"{encoder}.rel_embeddings.weight"),
            *norm("body/distances_norm", f"{encoder}.LayerNorm"),
        ]
        positions = f"{embeddings}.position_embeddings.weight"
        if config.absolute:
            entries.append(Entry("body/embed/positions", positions))
        if config.types:
            entries.append(Entry("body/embed/types", f"{embeddings}.token_type_embeddings.weight"))
        if config.taps:
            shape = (config.width, config.width, config.taps)
            entries += [
                *_layer("body/first", f"{encoder}.layer.0"),
                Entry("body/convolution/kernel", f"{encoder}.conv.conv.weight", "linear", inputs=2, shape=shape),
                Entry("body/convolution/bias", f"{encoder}.conv.conv.bias"),
                *norm("body/convolution_norm", f"{encoder}.conv.LayerNorm"),
            ]
        layers = tuple(range(bool(config.taps), config.layers))
        entries += [
            *_layer("body/layers/block", f"{encoder}.layer.{{layer}}", layers=layers),
            *dense("head/dense", f"{HEAD}.dense"),
            *norm("head/norm", f"{HEAD}.LayerNorm"),
            Entry("head/bias", f"{HEAD}.bias", "table"),
        ]
        buffers, unread = (r"(deberta\.)?embeddings\.position_ids",), [r"mask_predictions\..*"]
        if not config.absolute:  # some published files have the table all the same
            unread.append(rf"(deberta\.)?{re.escape(positions.removeprefix('deberta.'))}")
        return Table(tuple(entries), copies=COPIES, buffers=buffers, unread=tuple(unread), prefix="deberta.")

    def objective(self, parts: frozenset[str]) -> MLM:
        return MLM()


def _layer(ours: str, theirs: str, **more) -> tuple[Entry, ...]:
    return (
        *dense(f"{ours}/attention/query", f"{theirs}.attention.self.query_proj", **more),
        *dense(f"{ours}/attention/key", f"{theirs}.attention.self.key_proj", **more),
        *dense(f"{ours}/attention/value", f"{theirs}.attention.self.value_proj", **more),
        *dense(f"{ours}/attention/output", f"{theirs}.attention.output.dense", inputs=2, **more),
        *norm(f"{ours}/attention_norm", f"{theirs}.attention.output.LayerNorm", **more),
        *dense(f"{ours}/mlp/up", f"{theirs}.intermediate.dense", **more),
        *dense(f"{ours}/mlp/down", f"{theirs}.output.dense", **more),
        *norm(f"{ours}/mlp_norm", f"{theirs}.output.LayerNorm", **more),
    )
