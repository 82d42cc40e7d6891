"""GPT-2 (Radford et al., 2019): transformers' `gpt2`."""

from typing import Any

from ptjax.interop.family import Family, need
from ptjax.interop.tables import Entry, Table
from ptjax.models import GPT
from ptjax.objectives import CausalLM

# Ours -> (theirs, what transformers takes where it is missing).
FIELDS = {
    "layers": ("n_layer", 12),
    "width": ("n_embd", 768),
    "heads": ("n_head", 12),
    "max_length": ("n_positions", 1024),
    "dropout": ("resid_pdrop", 0.1),
    "attention_dropout": ("attn_pdrop", 0.1),
    "epsilon": ("layer_norm_epsilon", 1e-5),
    "std": ("initializer_range", 0.02),
    "tied": ("tie_word_embeddings", True),
}
# What our body does not vary.
FIXED = {
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


class GPT2Family(Family):
    """Kernels are [inputs, outputs]; queries, keys and values are thirds of one tensor."""

    model_type = "gpt2"
    body = GPT
    architectures = {
        "GPT2LMHeadModel": frozenset({"body", "head"}),
        "GPT2Model": frozenset({"body"}),
    }

    def config(self, theirs: dict[str, Any]) -> GPT:
        for key, value in FIXED.items():
            need(theirs, key, value, default=value)
        fields = {ours: theirs.get(key, default) for ours, (key, default) in FIELDS.items()}
        need(theirs, "embd_pdrop", fields["dropout"], default=fields["dropout"])
        hidden = theirs.get("n_inner") or 4 * fields["width"]
        return GPT(hidden=hidden, position_std=fields["std"], **fields)

    def describe(self, config: GPT, rows: int) -> dict[str, Any]:
        fields = {key: getattr(config, ours) for ours, (key, _) in FIELDS.items()}
        return fields | FIXED | {"vocab_size": rows, "n_inner": config.hidden, "embd_pdrop": config.dropout}

    def table(self, config: GPT) -> Table:
        layers = tuple(range(config.layers))

        def block(ours: str, theirs: str, *layout, **more) -> Entry:
            return Entry(
                f"body/layers/block/{ours}", f"transformer.h.{{layer}}.{theirs}", *layout, layers=layers, **more
            )

        def norm(ours: str, theirs: str) -> tuple[Entry, ...]:
            return block(f"{ours}/scale", f"{theirs}.weight"), block(f"{ours}/bias", f"{theirs}.bias")

        entries = [
            Entry("body/embed/tokens", "transformer.wte.weight", "table"),
            Entry("body/embed/positions", "transformer.wpe.weight"),
            *norm("attention_norm", "ln_1"),
        ]
        for k, name in enumerate(("query", "key", "value")):
            entries += [
                block(f"attention/{name}/kernel", "attn.c_attn.weight", "conv1d", part=(k, 3)),
                block(f"attention/{name}/bias", "attn.c_attn.bias", "flat", part=(k, 3)),
            ]
        entries += [
            block("attention/output/kernel", "attn.c_proj.weight", "conv1d", inputs=2),
            block("attention/output/bias", "attn.c_proj.bias"),
            *norm("mlp_norm", "ln_2"),
            block("mlp/up/kernel", "mlp.c_fc.weight", "conv1d"),
            block("mlp/up/bias", "mlp.c_fc.bias"),
            block("mlp/down/kernel", "mlp.c_proj.weight", "conv1d"),
            block("mlp/down/bias", "mlp.c_proj.bias"),
            Entry("body/norm/scale", "transformer.ln_f.weight"),
            Entry("body/norm/bias", "transformer.ln_f.bias"),
        ]
        if not config.tied:
            entries.append(Entry("head/table", "lm_head.weight", "table"))
        return Table(
            tuple(entries),
            copies={"lm_head.weight": "transformer.wte.weight"} if config.tied else {},
            # The causal mask, which early checkpoints hold.
            buffers=(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",),
            prefix="transformer.",
        )

    def objective(self, parts: frozenset[str]) -> CausalLM:
        return CausalLM()
