"""ModernBERT's config.json: published ones in the forms of transformers 4 and 5, and what is refused."""

import chz
import pytest

from ptjax.config import UserError
from ptjax.interop.modernbert import ModernBertFamily
from ptjax.models import ModernBERT

# Beside the weights of answerdotai/ModernBERT-base, written by transformers 4.47, without what speaks of the tokenizer.
PUBLISHED = {
    "architectures": ["ModernBertForMaskedLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "classifier_activation": "gelu",
    "classifier_bias": False,
    "classifier_dropout": 0.0,
    "classifier_pooling": "mean",
    "decoder_bias": True,
    "deterministic_flash_attn": False,
    "embedding_dropout": 0.0,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "gradient_checkpointing": False,
    "hidden_activation": "gelu",
    "hidden_size": 768,
    "initializer_cutoff_factor": 2.0,
    "initializer_range": 0.02,
    "intermediate_size": 1152,
    "layer_norm_eps": 1e-05,
    "local_attention": 128,
    "local_rope_theta": 10000.0,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "mlp_dropout": 0.0,
    "model_type": "modernbert",
    "norm_bias": False,
    "norm_eps": 1e-05,
    "num_attention_heads": 12,
    "num_hidden_layers": 22,
    "position_embedding_type": "absolute",
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "transformers_version": "4.47.0.dev0",
    "vocab_size": 50368,
}
LARGE = dict(num_hidden_layers=28, hidden_size=1024, num_attention_heads=16, intermediate_size=2624)
FAMILY = ModernBertFamily()


def test_published_configs_are_the_presets():
    assert FAMILY.config(PUBLISHED) == ModernBERT.preset("base")
    assert FAMILY.config(PUBLISHED | LARGE) == ModernBERT.preset("large")
    # What a file leaves out is as transformers takes it.
    assert FAMILY.config({"model_type": "modernbert"}) == ModernBERT.preset("base")


@pytest.mark.parametrize("every", [1, 2, 3, 5, 7])
def test_describe_is_the_inverse(every):
    config = ModernBERT(
        layers=5,
        width=48,
        heads=6,
        hidden=20,
        every=every,
        window=11,
        global_theta=500.0,
        local_theta=7.0,
        max_length=99,
        dropout=0.1,
        attention_dropout=0.1,
        mlp_dropout=0.2,
        embedding_dropout=0.3,
        epsilon=1e-6,
        std=0.03,
        tied=False,
        head_unit="silu",
    )
    theirs = FAMILY.describe(config, 77)
    assert theirs["vocab_size"] == 77
    assert theirs["pad_token_id"] is None  # transformers would take 50283, for which there is no row
    assert FAMILY.config(theirs) == config
    # Each version of transformers reads one of two forms.
    before = {"global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"}
    for left_out in (before, {"rope_parameters", "layer_types"}):
        again = FAMILY.config({key: value for key, value in theirs.items() if key not in left_out})
        # A list of kinds does not tell when the next global layer behind its end would come.
        assert again == (chz.replace(config, every=5) if left_out == before and every > 5 else config)


@pytest.mark.parametrize(
    "change",
    [
        dict(attention_bias=True),
        dict(mlp_bias=True),
        dict(norm_bias=True),
        dict(classifier_bias=True),
        dict(decoder_bias=False),
        dict(hidden_activation="relu"),
        dict(classifier_activation="relu"),
        dict(rope_scaling={"type": "linear", "factor": 2.0}),
        dict(rope_parameters={"full_attention": {"rope_type": "yarn", "rope_theta": 1e4}}),
        dict(local_rope_theta=None),
        dict(layer_types=["sliding_attention"] * 22),
        dict(layer_types=["full_attention"] * 21 + ["sliding_attention"]),
    ],
    ids=str,
)
def test_what_our_body_cannot_do_is_refused_by_name(change):
    with pytest.raises(UserError, match=next(iter(change))):
        FAMILY.config(PUBLISHED | change)


def test_kinds_of_layers_rule_over_their_number():
    kinds = ["full_attention" if i % 4 == 0 else "sliding_attention" for i in range(22)]
    assert FAMILY.config(PUBLISHED | dict(layer_types=kinds)).every == 4
