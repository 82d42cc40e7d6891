"""BERT, RoBERTa, ALBERT and ELECTRA: published configs, and what their bodies cannot do."""

import jax
import numpy as np
import pytest

from ptjax.config import UserError
from ptjax.interop.albert import AlbertFamily
from ptjax.interop.bert import BertFamily
from ptjax.interop.electra import ElectraFamily
from ptjax.interop.huggingface import load, save
from ptjax.interop.roberta import RobertaFamily
from ptjax.models import ALBERT, BERT, ELECTRA, RoBERTa
from tests.interop import parity

BASE = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)
COMMON = BASE | dict(max_position_embeddings=512, type_vocab_size=2, hidden_act="gelu", layer_norm_eps=1e-12)
COMMON |= dict(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, initializer_range=0.02, pad_token_id=0)
# What google-bert, FacebookAI, albert and google publish, as far as it has to do with the body.
PUBLISHED = {
    "bert-base-uncased": (BertFamily(), BERT.preset("base"), COMMON | dict(position_embedding_type="absolute")),
    "roberta-base": (
        RobertaFamily(),
        RoBERTa.preset("base"),
        COMMON | dict(max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1),
    ),
    "albert-base-v2": (
        AlbertFamily(),
        ALBERT.preset("base"),
        COMMON
        | dict(hidden_dropout_prob=0, attention_probs_dropout_prob=0, hidden_act="gelu_new", embedding_size=128)
        | dict(num_hidden_groups=1, inner_group_num=1, net_structure_type=0, gap_size=0),
    ),
    "electra-small-discriminator": (
        ElectraFamily(),
        ELECTRA.preset("small"),
        COMMON | dict(hidden_size=256, num_attention_heads=4, intermediate_size=1024, embedding_size=128),
    ),
    "electra-base-generator": (
        ElectraFamily(),
        ELECTRA.preset("base", width=256, heads=4, hidden=1024),
        COMMON | dict(hidden_size=256, num_attention_heads=4, intermediate_size=1024, embedding_size=768),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_the_presets(name):
    family, expected, theirs = PUBLISHED[name]
    config = family.config(theirs | {"model_type": family.model_type})
    assert config == expected
    described = family.describe(config, 30_000)
    assert family.config(described | {"model_type": family.model_type}) == config
    both = described.keys() & theirs.keys()
    assert {key: described[key] for key in both} == {key: theirs[key] for key in both} and len(both) > 8


@pytest.mark.parametrize(
    "family, theirs, said",
    [
        (BertFamily(), dict(hidden_act="relu"), "hidden_act='relu'.*'gelu'"),
        (
            BertFamily(),
            dict(position_embedding_type="relative_key"),
            "position_embedding_type='relative_key'.*'absolute'",
        ),
        (BertFamily(), dict(is_decoder=True), "is_decoder=True"),
        (BertFamily(), dict(tie_word_embeddings=False), "tie_word_embeddings=False"),
        (RobertaFamily(), dict(pad_token_id=0), "pad_token_id=0.*it can be 1"),
        (
            RobertaFamily(),
            dict(max_position_embeddings=2, pad_token_id=1),
            "max_position_embeddings=2, of which RoBERTa leaves 2 unused",
        ),
        (AlbertFamily(), dict(num_hidden_groups=2), "num_hidden_groups=2.*it can be 1"),
        (AlbertFamily(), dict(inner_group_num=3), "inner_group_num=3"),
        (AlbertFamily(), dict(hidden_act="silu"), "hidden_act='silu'.*'gelu_new' or"),
        (ElectraFamily(), dict(add_cross_attention=True), "add_cross_attention=True"),
    ],
)
def test_what_our_body_cannot_do_is_refused_by_name(family, theirs, said):
    with pytest.raises(UserError, match=said):
        family.config(COMMON | {"model_type": family.model_type} | theirs)


@pytest.mark.parametrize(
    "family", [AlbertFamily(), BertFamily(), ElectraFamily(), RobertaFamily()], ids=lambda family: family.model_type
)
def test_a_table_of_the_head_s_own_is_not_written(family):
    with pytest.raises(UserError, match="tied=False"):
        family.describe(family.body(tied=False), 100)


def test_roberta_s_pooler_comes_and_goes(tmp_path):
    """No objective of its own asks it, but files have it."""
    case, random = parity.frozen("roberta"), np.random.default_rng(0)
    width = case.config.width
    dense = {"kernel": random.normal(size=(width, width)), "bias": random.normal(size=width)}
    params = {"body": case.params["body"], "pooler": {"dense": {k: np.float32(x) for k, x in dense.items()}}}
    saved = save(tmp_path, case.config, params, rows=case.rows)
    assert saved.architecture == "RobertaModel" and not saved.new
    again = load(tmp_path).params
    jax.tree.map(np.testing.assert_array_equal, again["pooler"], params["pooler"])
    jax.tree.map(np.testing.assert_array_equal, again["body"]["layers"], params["body"]["layers"])
