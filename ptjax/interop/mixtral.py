"""Experts on Llama's body: transformers' `mixtral` (Jiang et al., 2024) and `qwen3_moe`.

Published files hold each kernel of each expert as a tensor of its own. So does what transformers 5 saves, although it
joins them in memory.
"""

from typing import Any

from ptjax.config import UserError
from ptjax.interop.llama import DEFAULTS, FIELDS, QWEN_DEFAULTS, LlamaFamily
from ptjax.models.feed_forward import Experts


class MixtralFamily(LlamaFamily):
    """settings: fields of `Experts` -> keys of config.json. tensors: what we call them -> their names in a layer."""

    model_type = "mixtral"
    architectures = {"MixtralForCausalLM": frozenset({"body", "head"}), "MixtralModel": frozenset({"body"})}
    mixes = True
    defaults = DEFAULTS | {
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "router_aux_loss_coef": 0.001,
    }
    fixed = {"hidden_act": "silu", "sliding_window": None, "router_jitter_noise": 0.0}
    settings = {"count": "num_local_experts", "chosen": "num_experts_per_tok", "balance": "router_aux_loss_coef"}
    # What is activated is called the gate elsewhere there, and what it is multiplied by here.
    tensors = {
        "router": "block_sparse_moe.gate.weight",
        "up": "block_sparse_moe.experts.{expert}.w1.weight",
        "gate": "block_sparse_moe.experts.{expert}.w3.weight",
        "down": "block_sparse_moe.experts.{expert}.w2.weight",
    }

    def options(self, theirs: dict[str, Any]) -> dict[str, Any]:
        own = {ours: theirs[key] for ours, key in self.settings.items()}
        return super().options(theirs) | {"experts": Experts(**own, router_z=0.0)}

    def describe(self, config, rows):
        own = config.experts
        if not own.renormalise and "renormalise" not in self.settings:
            raise UserError(f"transformers' {self.model_type} always renormalises: it has no experts.renormalise=False")
        return super().describe(config, rows) | {key: getattr(own, ours) for ours, key in self.settings.items()}

    def feed_forward(self, config, block):
        each = dict(self.tensors)
        router, count = each.pop("router"), config.experts.count
        kernels = [block(f"mlp/experts/{ours}/kernel", name, "linear", experts=count) for ours, name in each.items()]
        return [block("mlp/router/kernel", router, "linear"), *kernels]


class Qwen3MoeFamily(MixtralFamily):
    model_type = "qwen3_moe"
    architectures = {"Qwen3MoeForCausalLM": frozenset({"body", "head"}), "Qwen3MoeModel": frozenset({"body"})}
    option = "qk_norm"
    names = FIELDS | {"hidden": "moe_intermediate_size"}
    defaults = QWEN_DEFAULTS | {
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": False,
        "router_aux_loss_coef": 0.001,
    }
    fixed = {"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False, "decoder_sparse_step": 1}
    settings = MixtralFamily.settings | {"count": "num_experts", "renormalise": "norm_topk_prob"}
    tensors = {
        "router": "mlp.gate.weight",
        "up": "mlp.experts.{expert}.gate_proj.weight",
        "gate": "mlp.experts.{expert}.up_proj.weight",
        "down": "mlp.experts.{expert}.down_proj.weight",
    }

    def config(self, theirs):
        if theirs.get("mlp_only_layers"):
            raise UserError("config.json has mlp_only_layers: layers of ptjax's Llama are equal, all of experts")
        if "num_local_experts" in theirs:  # as transformers 5 writes it
            theirs = {"num_experts": theirs["num_local_experts"]} | theirs
        return super().config(theirs)
