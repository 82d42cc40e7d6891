"""ModernBERT (Warner et al., 2024): transformers' `modernbert`."""

from typing import Any

from ptjax.config import UserError
from ptjax.interop.family import Family, need
from ptjax.interop.tables import Entry, Table
from ptjax.models import ModernBERT
from ptjax.objectives import MLM

# Ours -> (theirs, what transformers takes where it is missing).
FIELDS = {
    "layers": ("num_hidden_layers", 22),
    "width": ("hidden_size", 768),
    "heads": ("num_attention_heads", 12),
    "hidden": ("intermediate_size", 1152),
    "window": ("local_attention", 128),
    "max_length": ("max_position_embeddings", 8192),
    "attention_dropout": ("attention_dropout", 0.0),
    "mlp_dropout": ("mlp_dropout", 0.0),
    "embedding_dropout": ("embedding_dropout", 0.0),
    "epsilon": ("norm_eps", 1e-5),
    "std": ("initializer_range", 0.02),
    "tied": ("tie_word_embeddings", True),
    "head_unit": ("classifier_activation", "gelu"),
}
# What our body does not vary.
FIXED = {
    "hidden_activation": "gelu",
    "attention_bias": False,
    "mlp_bias": False,
    "norm_bias": False,
    "classifier_bias": False,
    "decoder_bias": True,
}
# Which tokens are special the tokenizer says; transformers would take those of the published vocabulary.
IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
# The kind of a layer -> our base of its rotary wavelengths, and transformers' before version 5, with its default.
THETAS = {
    "full_attention": ("global_theta", "global_rope_theta", 160_000.0),
    "sliding_attention": ("local_theta", "local_rope_theta", 10_000.0),
}


class ModernBertFamily(Family):
    """Queries, keys and values are thirds of one tensor, the two inner kernels of the feed-forward part halves.

    transformers has one dropout for attention's probabilities and for what attention adds: an export has that of the
    probabilities.
    """

    model_type = "modernbert"
    body = ModernBERT
    architectures = {
        "ModernBertForMaskedLM": frozenset({"body", "head"}),
        "ModernBertModel": frozenset({"body"}),
    }

    def config(self, theirs: dict[str, Any]) -> ModernBERT:
        for key, value in FIXED.items():
            need(theirs, key, value, default=value)
        need(theirs, "classifier_activation", "gelu", "silu", default="gelu")
        fields = {ours: theirs.get(key, default) for ours, (key, default) in FIELDS.items()}
        thetas = {ours: _theta(theirs, kind) for kind, (ours, *_) in THETAS.items()}
        every = _every(theirs, fields["layers"])
        return ModernBERT(dropout=fields["attention_dropout"], every=every, **thetas, **fields)

    def describe(self, config: ModernBERT, rows: int) -> dict[str, Any]:
        fields = {key: getattr(config, ours) for ours, (key, _) in FIELDS.items()}
        thetas = {kind: getattr(config, ours) for kind, (ours, *_) in THETAS.items()}
        # Of what has changed its name, both forms: transformers 4 reads the first, 5 the second.
        before = {"global_attn_every_n_layers": config.every} | {THETAS[kind][1]: thetas[kind] for kind in THETAS}
        after = {
            "layer_types": _kinds(config.layers, config.every),
            "rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()},
        }
        return fields | FIXED | dict.fromkeys(IDS) | before | after | {"vocab_size": rows}

    def table(self, config: ModernBERT) -> Table:
        entries = [
            Entry("body/embed/tokens", "model.embeddings.tok_embeddings.weight", "table"),
            Entry("body/embed_norm/scale", "model.embeddings.norm.weight"),
            Entry("body/norm/scale", "model.final_norm.weight"),
            *_block("body/first", "model.layers.0", normed=False),
            Entry("head/dense/kernel", "head.dense.weight", "linear"),
            Entry("head/norm/scale", "head.norm.weight"),
            Entry("head/bias", "decoder.bias", "table"),
        ]
        grouped = config.layers - (config.layers - 1) % config.every
        for i in range(1, 1 + config.every):
            layers = tuple(range(i, grouped, config.every))
            if layers:
                entries += _block(f"body/layers/block/blocks_{i - 1}", "model.layers.{layer}", layers=layers)
        for i in range(grouped, config.layers):
            entries += _block(f"body/rest/blocks_{i - grouped}", f"model.layers.{i}")
        if not config.tied:
            entries.append(Entry("head/table", "decoder.weight", "table"))
        copies = {"decoder.weight": "model.embeddings.tok_embeddings.weight"} if config.tied else {}
        return Table(tuple(entries), copies=copies, prefix="model.")

    def objective(self, parts: frozenset[str]) -> MLM:
        return MLM(rate=0.3)


def _block(ours: str, theirs: str, normed: bool = True, layers: tuple[int, ...] = ()) -> list[Entry]:
    def entry(name: str, there: str, *layout, **more) -> Entry:
        return Entry(f"{ours}/{name}", f"{theirs}.{there}", *layout, layers=layers, **more)

    return [
        *[entry("attention_norm/scale", "attn_norm.weight")] * normed,
        *(
            entry(f"attention/{name}/kernel", "attn.Wqkv.weight", "linear", part=(k, 3))
            for k, name in enumerate(("query", "key", "value"))
        ),
        entry("attention/output/kernel", "attn.Wo.weight", "linear", inputs=2),
        entry("mlp_norm/scale", "mlp_norm.weight"),
        *(entry(f"mlp/{name}/kernel", "mlp.Wi.weight", "linear", part=(k, 2)) for k, name in enumerate(("up", "gate"))),
        entry("mlp/down/kernel", "mlp.Wo.weight", "linear"),
    ]


def _kinds(layers: int, every: int) -> list[str]:
    return ["sliding_attention" if i % every else "full_attention" for i in range(layers)]


def _every(theirs: dict[str, Any], layers: int) -> int:
    """Every how many layers one is global, by transformers 4's key or by 5's list of kinds, which rules."""
    said = theirs.get("global_attn_every_n_layers", 3)
    kinds = theirs.get("layer_types")
    if kinds is None:
        return said
    second = kinds.index("full_attention", 1) if "full_attention" in kinds[1:] else layers
    for every in (said, second):
        if kinds == _kinds(layers, every):
            return every
    raise UserError(
        f"config.json has layer_types={kinds!r} for num_hidden_layers={layers}, which ptjax's modernbert does not "
        "know: the first layer and every n-th behind it have full_attention, all others sliding_attention"
    )


def _theta(theirs: dict[str, Any], kind: str) -> float:
    """The base of the rotary wavelengths of this kind of layer, by transformers 5's key or by 4's."""
    _, key, default = THETAS[kind]
    need(theirs, "rope_scaling", None)
    said = (theirs.get("rope_parameters") or {}).get(kind) or {}
    if said.get("rope_type", "default") != "default":
        raise UserError(
            f"config.json has rope_parameters.{kind}.rope_type={said['rope_type']!r}, which ptjax's modernbert does "
            "not know: it can be 'default'"
        )
    theta = said.get("rope_theta", theirs.get(key, default))
    if not isinstance(theta, int | float):
        raise UserError(f"config.json has {key}={theta!r}, which ptjax's modernbert does not know: it is a number")
    return float(theta)
