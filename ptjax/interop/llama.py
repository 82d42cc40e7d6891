"""Llama (Touvron et al., 2023) and its kin: transformers' `llama`, `mistral`, `qwen2` and `qwen3`."""

from collections.abc import Callable
from typing import Any

from ptjax.config import UserError
from ptjax.interop.family import Family, need
from ptjax.interop.tables import Entry, Table
from ptjax.models import Llama
from ptjax.models.llama import LinearScaling, Llama3Scaling, RopeScaling
from ptjax.objectives import CausalLM

# Ours -> theirs.
FIELDS = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "max_length": "max_position_embeddings",
    "attention_dropout": "attention_dropout",
    "epsilon": "rms_norm_eps",
    "std": "initializer_range",
    "tied": "tie_word_embeddings",
}
# What transformers takes where a key is missing.
DEFAULTS = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "intermediate_size": 11008,
    "max_position_embeddings": 2048,
    "attention_dropout": 0.0,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
}
QWEN_DEFAULTS = DEFAULTS | {
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
}
# Theirs -> ours; the length differs in name alone.
LLAMA3_SCALING = {
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_position_embeddings": "original_length",
}


# One of these options makes a family: a model that has several is nobody's.
OPTIONS = ("qk_norm", "qkv_bias", "window")


class LlamaFamily(Family):
    """One table for all: families differ in the option that they have besides Llama's."""

    model_type = "llama"
    body = Llama
    architectures = {"LlamaForCausalLM": frozenset({"body", "head"}), "LlamaModel": frozenset({"body"})}
    option: str | None = None
    names = FIELDS
    defaults = DEFAULTS
    fixed = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}  # what our body does not vary

    def config(self, theirs: dict[str, Any]) -> Llama:
        for key, value in self.fixed.items():
            need(theirs, key, value, default=value)
        if set(theirs.get("layer_types") or ()) - {"full_attention"}:
            raise UserError("config.json has layer_types other than full_attention: layers of ptjax's Llama are equal")
        theirs = self.defaults | theirs
        fields = {ours: theirs[key] for ours, key in self.names.items()}
        kv_heads, head_dim = theirs["num_key_value_heads"], theirs["head_dim"]
        theta, scaling = rope_of(theirs)
        return Llama(
            **fields,
            kv_heads=None if kv_heads == fields["heads"] else kv_heads,
            head_dim=None if head_dim == fields["width"] / fields["heads"] else head_dim,
            theta=theta,
            scaling=scaling,
            **self.options(theirs),
        )

    def options(self, theirs: dict[str, Any]) -> dict[str, Any]:
        """Our fields that make this family."""
        return {} if self.option is None else {self.option: True}

    def describe(self, config: Llama, rows: int) -> dict[str, Any]:
        options = [name for name in OPTIONS if getattr(config, name)]
        if len(options) > 1:
            raise UserError(
                f"transformers has no model with {' and '.join(options)}: {self.model_type} has {options[0]}"
            )
        if config.width % config.heads and self.model_type == "llama":
            raise UserError(f"transformers' llama has no heads={config.heads} that do not divide width={config.width}")
        kv_heads, head_dim = config.cached
        fields = {key: getattr(config, ours) for ours, key in self.names.items()} | self.fixed
        fields |= {"vocab_size": rows, "num_key_value_heads": kv_heads, "head_dim": head_dim}
        # The keys of transformers 4, which 5 reads as well.
        return fields | {"rope_theta": config.theta, "rope_scaling": described(config.scaling)}

    def table(self, config: Llama) -> Table:
        layers = tuple(range(config.layers))

        def block(ours: str, theirs: str, *layout, **more) -> Entry:
            return Entry(
                f"body/layers/block/{ours}", f"model.layers.{{layer}}.{theirs}", *layout, layers=layers, **more
            )

        entries = [
            Entry("body/embed/tokens", "model.embed_tokens.weight", "table"),
            block("attention_norm/scale", "input_layernorm.weight"),
        ]
        for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
            entries.append(block(f"attention/{ours}/kernel", f"self_attn.{theirs}.weight", "linear"))
            if config.qkv_bias:
                entries.append(block(f"attention/{ours}/bias", f"self_attn.{theirs}.bias", "flat"))
        if config.qk_norm:
            entries += [
                block("attention/query_norm/scale", "self_attn.q_norm.weight"),
                block("attention/key_norm/scale", "self_attn.k_norm.weight"),
            ]
        entries += [
            block("attention/output/kernel", "self_attn.o_proj.weight", "linear", inputs=2),
            block("mlp_norm/scale", "post_attention_layernorm.weight"),
            *self.feed_forward(config, block),
            Entry("body/norm/scale", "model.norm.weight"),
        ]
        if not config.tied:
            entries.append(Entry("head/table", "lm_head.weight", "table"))
        return Table(
            tuple(entries),
            copies={"lm_head.weight": "model.embed_tokens.weight"} if config.tied else {},
            # Of positions, which early checkpoints hold.
            buffers=(r"(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",),
            prefix="model.",
        )

    def feed_forward(self, config: Llama, block: Callable[..., Entry]) -> list[Entry]:
        """Of all layers. block: makes one of them an Entry."""
        # What is activated is called the gate there, and what it is multiplied by here.
        return [
            block("mlp/up/kernel", "mlp.gate_proj.weight", "linear"),
            block("mlp/gate/kernel", "mlp.up_proj.weight", "linear"),
            block("mlp/down/kernel", "mlp.down_proj.weight", "linear"),
        ]

    def objective(self, parts: frozenset[str]) -> CausalLM:
        return CausalLM()

    def own(self, config) -> bool:
        option = next((name for name in OPTIONS if getattr(config, name, None)), None)
        return super().own(config) and option == self.option


class MistralFamily(LlamaFamily):
    model_type = "mistral"
    architectures = {"MistralForCausalLM": frozenset({"body", "head"}), "MistralModel": frozenset({"body"})}
    option = "window"
    defaults = DEFAULTS | {
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    }
    fixed = {"hidden_act": "silu"}

    def options(self, theirs):
        return {"window": theirs["sliding_window"]}

    def describe(self, config, rows):
        return super().describe(config, rows) | {"sliding_window": config.window}


class Qwen2Family(LlamaFamily):
    model_type = "qwen2"
    architectures = {"Qwen2ForCausalLM": frozenset({"body", "head"}), "Qwen2Model": frozenset({"body"})}
    option = "qkv_bias"
    defaults = QWEN_DEFAULTS
    fixed = {"hidden_act": "silu", "use_sliding_window": False}


class Qwen3Family(LlamaFamily):
    model_type = "qwen3"
    architectures = {"Qwen3ForCausalLM": frozenset({"body", "head"}), "Qwen3Model": frozenset({"body"})}
    option = "qk_norm"
    defaults = QWEN_DEFAULTS | {"head_dim": 128}
    fixed = {"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False}


def rope_of(theirs: dict[str, Any]) -> tuple[float, RopeScaling | None]:
    """(theta, scaling), from the keys of transformers 4 (rope_theta, rope_scaling) or 5 (rope_parameters)."""
    key = "rope_scaling" if theirs.get("rope_scaling") else "rope_parameters"
    rope = theirs.get(key) or {}
    found = {"model_type": theirs.get("model_type"), f"{key}.rope_type": rope.get("rope_type", rope.get("type"))}
    found |= {"partial_rotary_factor": rope.get("partial_rotary_factor", theirs.get("partial_rotary_factor"))}
    need(found, "partial_rotary_factor", None, 1.0)
    kind = need(found, f"{key}.rope_type", None, "default", "linear", "llama3")
    theta = float(rope.get("rope_theta", theirs.get("rope_theta", 10000.0)))
    if kind in (None, "default"):
        if unknown := set(rope) - {"rope_type", "type", "rope_theta", "partial_rotary_factor"}:
            raise UserError(
                f"config.json has {key} with {', '.join(sorted(unknown))}, which ptjax's Llama does not know"
            )
        return theta, None
    if kind == "linear":
        return theta, LinearScaling(factor=float(rope["factor"]))
    values = {"original_max_position_embeddings": theirs["max_position_embeddings"]} | rope
    return theta, Llama3Scaling(**{ours: values[name] for name, ours in LLAMA3_SCALING.items()})


def described(scaling: RopeScaling | None) -> dict[str, Any] | None:
    """As rope_scaling."""
    if scaling is None:
        return None
    if isinstance(scaling, LinearScaling):
        return {"rope_type": "linear", "factor": scaling.factor}
    if isinstance(scaling, Llama3Scaling):
        return {"rope_type": "llama3"} | {name: getattr(scaling, ours) for name, ours in LLAMA3_SCALING.items()}
    raise UserError(
        f"transformers has no {type(scaling).__name__}: rotary positions are scaled linearly or as Llama 3's"
    )
