"""DeBERTa's published configs, and the other names that its tensors go by."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ptjax.config import UserError
from ptjax.interop.deberta import COPIES, HEAD, LEGACY, DebertaV2Family
from ptjax.interop.huggingface import load
from ptjax.models import DeBERTa
from tests.interop.parity import FAMILIES

FAMILY = DebertaV2Family()
# What the published config.json of every model have alike; they name no architecture and have no `legacy`.
PUBLISHED = dict(
    model_type="deberta-v2",
    attention_probs_dropout_prob=0.1,
    hidden_act="gelu",
    hidden_dropout_prob=0.1,
    initializer_range=0.02,
    max_position_embeddings=512,
    relative_attention=True,
    position_buckets=256,
    norm_rel_ebd="layer_norm",
    share_att_key=True,
    pos_att_type="p2c|c2p",
    layer_norm_eps=1e-7,
    max_relative_positions=-1,
    position_biased_input=False,
    type_vocab_size=0,
    vocab_size=128100,
)
CONVOLUTION = dict(conv_kernel_size=3, conv_act="gelu", attention_head_size=64)
SIZES = {
    "xsmall": dict(num_hidden_layers=12, hidden_size=384, num_attention_heads=6, intermediate_size=1536),
    "small": dict(num_hidden_layers=6, hidden_size=768, num_attention_heads=12, intermediate_size=3072),
    "base": dict(num_hidden_layers=12, hidden_size=768, num_attention_heads=12, intermediate_size=3072),
    "large": dict(num_hidden_layers=24, hidden_size=1024, num_attention_heads=16, intermediate_size=4096),
    "v2-xlarge": CONVOLUTION
    | dict(num_hidden_layers=24, hidden_size=1536, num_attention_heads=24, intermediate_size=6144),
    "v2-xxlarge": CONVOLUTION
    | dict(num_hidden_layers=48, hidden_size=1536, num_attention_heads=24, intermediate_size=6144),
}


def test_published_configs_are_the_presets():
    for size, theirs in SIZES.items():
        assert FAMILY.config(PUBLISHED | theirs) == DeBERTa.preset(size), size


@pytest.mark.parametrize(
    "config",
    [
        DeBERTa.preset("v2-xlarge"),
        DeBERTa(layers=3, heads=4, absolute=True, types=3, max_length=77, dropout=0.3, attention_dropout=0.2),
        DeBERTa(buckets=0, furthest=33, epsilon=1e-5, std=0.1, width=96, hidden=5),
    ],
    ids=str,
)
def test_describe_is_the_inverse(config):
    theirs = json.loads(json.dumps(FAMILY.describe(config, 500)))
    assert theirs["vocab_size"] == 500
    assert FAMILY.config(theirs) == config


@pytest.mark.parametrize(
    "change",
    [
        dict(relative_attention=False),
        dict(share_att_key=False),
        dict(norm_rel_ebd="none"),
        dict(pos_att_type="c2p"),
        dict(pos_att_type=None),
        dict(hidden_act="relu"),
        dict(embedding_size=128),
        dict(attention_head_size=32),
        dict(conv_act="tanh"),
        dict(conv_groups=2),
        dict(tie_word_embeddings=False),
    ],
    ids=str,
)
def test_what_our_body_cannot_do_is_refused_by_name(change):
    with pytest.raises(UserError, match="{}=".format(*change)):
        FAMILY.config(PUBLISHED | SIZES["v2-xlarge"] | change)


def test_what_is_missing_is_not_guessed():
    for key in ("relative_attention", "share_att_key", "norm_rel_ebd", "pos_att_type"):
        theirs = {name: value for name, value in (PUBLISHED | SIZES["base"]).items() if name != key}
        with pytest.raises(UserError, match=key):
            FAMILY.config(theirs)


def test_a_head_by_bert_s_names(tmp_path):
    """As transformers writes it with `legacy`, with or without what it ties."""
    tensors = load_file(FAMILIES / "deberta_v3" / "model.safetensors")
    theirs = {name: tensors.pop(of) for name, of in COPIES.items() if of.startswith(HEAD) and "decoder" not in name}
    tied = {name: (tensors | theirs)[of] for name, of in [(f"{LEGACY}.decoder.bias", f"{LEGACY}.bias")]}
    expected = load(FAMILIES / "deberta_v3")
    assert expected.params.keys() == {"body", "head"}
    shutil.copy(FAMILIES / "deberta_v3" / "config.json", tmp_path)
    for more in ({}, tied):
        save_file(tensors | theirs | more, tmp_path / "model.safetensors")
        found = load(tmp_path)
        assert not found.left_out
        jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)


def test_what_published_files_have_besides(tmp_path):
    """The head that detected replacements and, where no position is embedded, a table of positions."""
    tensors = load_file(FAMILIES / "deberta_v3" / "model.safetensors")
    ones = lambda *shape: np.ones(shape, np.float32)
    besides = {
        f"mask_predictions.dense.{name}": ones(*shape) for name, shape in {"weight": (16, 16), "bias": (16,)}.items()
    }
    besides["deberta.embeddings.position_embeddings.weight"] = ones(40, 16)
    save_file(tensors | besides, tmp_path / "model.safetensors")
    theirs = json.loads((FAMILIES / "deberta_v3" / "config.json").read_text())
    del theirs["architectures"], theirs["legacy"]
    (tmp_path / "config.json").write_text(json.dumps(theirs))
    expected = load(FAMILIES / "deberta_v3")
    found = load(tmp_path)
    assert found.left_out == tuple(sorted(besides))  # learned, so it is said
    assert found.config == expected.config
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
