"""XLNet (Yang et al., 2019): transformers' `xlnet`."""

from typing import Any

from ptjax.config import UserError
from ptjax.interop.family import Family, need
from ptjax.interop.tables import Entry, Table
from ptjax.models import XLNet
from ptjax.objectives import PLM

# Ours -> (theirs, what transformers takes where it is missing).
FIELDS = {
    "layers": ("n_layer", 24),
    "width": ("d_model", 1024),
    "heads": ("n_head", 16),
    "hidden": ("d_inner", 4096),
    "dropout": ("dropout", 0.1),
    "epsilon": ("layer_norm_eps", 1e-12),
    "std": ("initializer_range", 0.02),
}
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu"}
FIXED = {"attn_type": "bi", "bi_data": False, "clamp_len": -1, "same_length": False, "tie_word_embeddings": True}


class XLNetFamily(Family):
    """Kernels are [D, H, K], the output's too. Memory (mem_len) is a matter of use, and ours keeps none."""

    model_type = "xlnet"
    body = XLNet
    architectures = {
        "XLNetLMHeadModel": frozenset({"body", "permutation_head"}),
        "XLNetModel": frozenset({"body"}),
    }

    def config(self, theirs: dict[str, Any]) -> XLNet:
        for key, value in FIXED.items():
            need(theirs, key, value, default=value)
        fields = {ours: theirs.get(key, default) for ours, (key, default) in FIELDS.items()}
        need(theirs, "d_head", fields["width"] // fields["heads"], None)
        activation = ACTIVATIONS[need(theirs, "ff_activation", *ACTIVATIONS, default="gelu")]
        return XLNet(activation=activation, attention_dropout=fields["dropout"], **fields)

    def describe(self, config: XLNet, rows: int) -> dict[str, Any]:
        if config.attention_dropout != config.dropout:
            raise UserError(
                f"transformers' XLNet has one dropout, and this has model.dropout={config.dropout} and "
                f"model.attention_dropout={config.attention_dropout}: set them alike"
            )
        activation = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation)
        fields = {key: getattr(config, ours) for ours, (key, _) in FIELDS.items()}
        return fields | FIXED | {"vocab_size": rows, "ff_activation": activation, "mem_len": None}

    def table(self, config: XLNet) -> Table:
        layers, size = tuple(range(config.layers)), config.width // config.heads

        def block(ours: str, theirs: str, *layout: str, **more) -> Entry:
            theirs = f"transformer.layer.{{layer}}.{theirs}"
            return Entry(f"body/layers/block/{ours}", theirs, *layout, layers=layers, **more)

        def norm(ours: str, theirs: str) -> list[Entry]:
            return [block(f"{ours}/scale", f"{theirs}.weight"), block(f"{ours}/bias", f"{theirs}.bias")]

        kernels = {"query": "q", "key": "k", "value": "v", "distance": "r"}
        biases = {"content_bias": "r_w_bias", "position_bias": "r_r_bias", "type_bias": "r_s_bias"}
        shape = (config.width, config.heads, size)
        entries = [
            Entry("body/embed/tokens", "transformer.word_embedding.weight", "table"),
            Entry("body/target", "transformer.mask_emb", shape=(1, 1, config.width)),
            *(block(f"attention/{ours}/kernel", f"rel_attn.{theirs}") for ours, theirs in kernels.items()),
            block("attention/output/kernel", "rel_attn.o", "linear", inputs=2, shape=shape),
            *(block(f"attention/{ours}", f"rel_attn.{theirs}") for ours, theirs in biases.items()),
            block("attention/type_keys", "rel_attn.seg_embed"),
            *norm("attention_norm", "rel_attn.layer_norm"),
            *norm("mlp_norm", "ff.layer_norm"),
        ]
        for ours, theirs in {"up": "layer_1", "down": "layer_2"}.items():
            entries += [
                block(f"mlp/{ours}/kernel", f"ff.{theirs}.weight", "linear"),
                block(f"mlp/{ours}/bias", f"ff.{theirs}.bias"),
            ]
        entries.append(Entry("permutation_head/bias", "lm_loss.bias", "table"))
        copies = {"lm_loss.weight": "transformer.word_embedding.weight"}
        return Table(tuple(entries), copies=copies, prefix="transformer.")

    def objective(self, parts: frozenset[str]) -> PLM:
        return PLM()
