"""T5 (Raffel et al., 2020), versions 1.0 and 1.1: transformers' `t5`."""

from typing import Any

from ptjax.config import UserError
from ptjax.interop.family import Family, need
from ptjax.interop.tables import Entry, Table
from ptjax.models import T5
from ptjax.objectives import SpanCorruption

# Ours -> (theirs, what transformers takes where it is missing).
FIELDS = {
    "layers": ("num_layers", 6),
    "width": ("d_model", 512),
    "heads": ("num_heads", 8),
    "head_dim": ("d_kv", 64),
    "hidden": ("d_ff", 2048),
    "buckets": ("relative_attention_num_buckets", 32),
    "furthest": ("relative_attention_max_distance", 128),
    "dropout": ("dropout_rate", 0.1),
    "epsilon": ("layer_norm_epsilon", 1e-6),
    "std": ("initializer_factor", 1.0),
}
FEED_FORWARD = {"relu": False, "gated-gelu": True}  # which are gated


class T5Family(Family):
    """`tie_word_embeddings: false` is how a config says that the logits have a table of their own and no scale."""

    model_type = "t5"
    body = T5
    architectures = {
        "T5ForConditionalGeneration": frozenset({"body", "head"}),
        "T5Model": frozenset({"body"}),
    }

    def config(self, theirs: dict[str, Any]) -> T5:
        fields = {ours: theirs.get(key, default) for ours, (key, default) in FIELDS.items()}
        need(theirs, "num_decoder_layers", fields["layers"], None)
        gated = FEED_FORWARD[need(theirs, "feed_forward_proj", *FEED_FORWARD, default="relu")]
        # What transformers 5 writes beside a `tie_word_embeddings` that it always makes true.
        tied = theirs.get("scale_decoder_outputs", theirs.get("tie_word_embeddings", True))
        return T5(gated=gated, tied=tied, attention_dropout=fields["dropout"], **fields)

    def describe(self, config: T5, rows: int) -> dict[str, Any]:
        if config.attention_dropout != config.dropout:
            raise UserError(
                f"transformers' T5 has one dropout, and this has model.dropout={config.dropout} and "
                f"model.attention_dropout={config.attention_dropout}: set them alike"
            )
        forward = next(name for name, gated in FEED_FORWARD.items() if gated == config.gated)
        return {key: getattr(config, ours) for ours, (key, _) in FIELDS.items()} | {
            "vocab_size": rows,
            "num_decoder_layers": config.layers,
            "feed_forward_proj": forward,
            "tie_word_embeddings": config.tied,
            "is_encoder_decoder": True,
        }

    def table(self, config: T5) -> Table:
        entries = [Entry("body/embed/tokens", "shared.weight", "table")]
        for half in ("encoder", "decoder"):
            entries += _half(config, half)
        copies = {f"{half}.embed_tokens.weight": "shared.weight" for half in ("encoder", "decoder")}
        if config.tied:
            copies["lm_head.weight"] = "shared.weight"
        else:
            entries.append(Entry("head/table", "lm_head.weight", "table"))
        # Early checkpoints hold a bias of the attention to the encoder, which nothing reads.
        unread = r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
        return Table(tuple(entries), copies=copies, unread=(unread,))

    def objective(self, parts: frozenset[str]) -> SpanCorruption:
        return SpanCorruption()


def _half(config: T5, half: str) -> list[Entry]:
    layers = tuple(range(config.layers))

    def block(ours: str, number: int, theirs: str, *layout: str, **more) -> Entry:
        theirs = f"{half}.block.{{layer}}.layer.{number}.{theirs}.weight"
        return Entry(f"body/{half}/layers/block/{ours}", theirs, *layout, layers=layers, **more)

    def attention(ours: str, norm: str, number: int, theirs: str) -> list[Entry]:
        names = {"query": "q", "key": "k", "value": "v"}
        return [
            block(f"{norm}/scale", number, "layer_norm"),
            *(block(f"{ours}/{name}/kernel", number, f"{theirs}.{letter}", "linear") for name, letter in names.items()),
            block(f"{ours}/output/kernel", number, f"{theirs}.o", "linear", inputs=2),
        ]

    # Buckets by heads there, in the first layer, whose biases all layers share.
    bias = f"{half}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    entries = [Entry(f"body/{half}/bias/table", bias, "linear")]
    entries += attention("attention", "attention_norm", 0, "SelfAttention")
    if half == "decoder":
        entries += attention("cross", "cross_norm", 1, "EncDecAttention")
    last = 2 if half == "decoder" else 1
    names = {"up": "wi_0", "gate": "wi_1", "down": "wo"} if config.gated else {"up": "wi", "down": "wo"}
    entries.append(block("mlp_norm/scale", last, "layer_norm"))
    entries += [
        block(f"mlp/{ours}/kernel", last, f"DenseReluDense.{theirs}", "linear") for ours, theirs in names.items()
    ]
    return [*entries, Entry(f"body/{half}/norm/scale", f"{half}.final_layer_norm.weight")]
