"""Llama's families: what of their config.json is read, what is refused, and which of them an export is of."""

import chz
import pytest

from ptjax.config import UserError
from ptjax.interop.families import FAMILIES
from ptjax.models import Llama
from ptjax.models.llama import SIZES, LinearScaling, Llama3Scaling

OF = {family.model_type: family for family in FAMILIES}
LLAMA3 = {"factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 8192}
SCALINGS = {
    None: None,
    "default": None,
    "linear": LinearScaling(factor=8.0),
    "llama3": Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=8192),
}


def config_of(model_type="llama", **keys):
    return OF[model_type].config({"model_type": model_type, "vocab_size": 100} | keys)


@pytest.mark.parametrize("kind", SCALINGS)
def test_rotary_positions_in_the_keys_of_transformers_4_and_5(kind):
    values = {"linear": {"factor": 8}, "llama3": LLAMA3}.get(kind, {})
    old = config_of(rope_theta=500000, rope_scaling=kind and {"rope_type": kind} | values)
    older = config_of(rope_theta=500000, rope_scaling=kind and {"type": kind} | values)
    new = config_of(rope_parameters={"rope_type": kind or "default", "rope_theta": 500000} | values)
    assert old == older == new
    assert (new.theta, new.scaling) == (500000.0, SCALINGS[kind])


@pytest.mark.parametrize("name", SIZES)
def test_what_is_described_is_read_again(name):
    config = Llama.preset(name)
    (family,) = [family for family in FAMILIES if family.own(config)]
    series = name.partition("-")[0]
    kinds = {"mistral": "mistral", "mixtral": "mixtral", "qwen2.5": "qwen2", "qwen3": "qwen3"}
    assert family.model_type == kinds.get(series, "llama") + "_moe" * (series == "qwen3" and config.experts is not None)
    described = family.describe(config, 100)
    assert described["vocab_size"] == 100
    again = family.config(described | {"model_type": family.model_type})
    assert again.cached == config.cached
    assert again == chz.replace(config, head_dim=again.head_dim)  # which may be what it would be anyway


@pytest.mark.parametrize(
    "model_type,keys,message",
    [
        ("llama", dict(attention_bias=True), "attention_bias=True"),
        ("llama", dict(mlp_bias=True), "mlp_bias=True"),
        ("llama", dict(hidden_act="gelu"), "hidden_act='gelu'"),
        ("llama", dict(rope_scaling={"rope_type": "yarn", "factor": 4.0}), "rope_scaling.rope_type='yarn'"),
        ("llama", dict(rope_parameters={"rope_type": "dynamic"}), "rope_parameters.rope_type='dynamic'"),
        ("llama", dict(partial_rotary_factor=0.5), "partial_rotary_factor=0.5"),
        ("qwen3", dict(rope_parameters={"full_attention": {"rope_theta": 1e6}}), "rope_parameters with full_attention"),
        ("qwen2", dict(use_sliding_window=True), "use_sliding_window=True"),
        ("qwen3", dict(layer_types=["full_attention", "sliding_attention"]), "layer_types"),
        ("qwen3", dict(attention_bias=True), "attention_bias=True"),
        ("mistral", dict(hidden_act="relu"), "hidden_act='relu'"),
    ],
)
def test_what_the_body_cannot_do_is_named(model_type, keys, message):
    config_of(model_type)
    with pytest.raises(UserError, match=message):
        config_of(model_type, **keys)


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(qk_norm=True, qkv_bias=True), "qk_norm and qkv_bias"),
        (dict(qk_norm=True, window=8), "qk_norm and window"),
        (dict(qkv_bias=True, window=8), "qkv_bias and window"),
        (dict(width=100, heads=12, head_dim=16), "heads=12 that do not divide width=100"),
    ],
)
def test_what_transformers_lacks_is_named(options, message):
    config = chz.replace(Llama.preset("tiny"), **options)
    (family,) = [family for family in FAMILIES if family.own(config)]
    with pytest.raises(UserError, match=message):
        family.describe(config, 100)


def test_gpt2_refuses_what_the_body_cannot_do():
    gpt2 = OF["gpt2"]
    assert gpt2.config({"n_embd": 48}).hidden == 192
    for keys in ({"activation_function": "relu"}, {"scale_attn_weights": False}, {"embd_pdrop": 0.3}):
        with pytest.raises(UserError, match=next(iter(keys))):
            gpt2.config(keys)
