"""ELECTRA (Clark et al., 2020): transformers' `electra`, whose generator and discriminator are checkpoints each."""

from typing import Any

from ptjax.data.tokenizers import VocabSpec
from ptjax.interop.bert import FIELDS, FIXED, blocks, dense, embeddings, norm, read, write
from ptjax.interop.family import Family
from ptjax.interop.tables import Entry, Table
from ptjax.models import ELECTRA
from ptjax.objectives import MLM, RTD
from ptjax.objectives.base import Objective

# What transformers takes where a key is missing is the small model's.
OWN_FIELDS = FIELDS | {
    "width": ("hidden_size", 256),
    "heads": ("num_attention_heads", 4),
    "hidden": ("intermediate_size", 1024),
    "embedding": ("embedding_size", 128),
}


class ElectraFamily(Family):
    model_type = "electra"
    body = ELECTRA
    architectures = {
        "ElectraModel": frozenset({"body"}),
        "ElectraForMaskedLM": frozenset({"body", "head"}),
        "ElectraForPreTraining": frozenset({"body", "discriminator_head"}),
    }

    def config(self, theirs: dict[str, Any]) -> ELECTRA:
        return ELECTRA(**read(theirs, OWN_FIELDS, FIXED))

    def describe(self, config: ELECTRA, rows: int) -> dict[str, Any]:
        return write(config, OWN_FIELDS, FIXED) | {"vocab_size": rows}

    def table(self, config: ELECTRA) -> Table:
        return Table(
            (
                *embeddings("electra.", config),
                *(dense("body/projection", "electra.embeddings_project") if config.projects else ()),
                *blocks("electra.", config.layers),
                *dense("head/dense", "generator_predictions.dense"),
                *norm("head/norm", "generator_predictions.LayerNorm"),
                Entry("head/bias", "generator_lm_head.bias", "table"),
                *dense("discriminator_head/dense", "discriminator_predictions.dense"),
                *dense("discriminator_head/logit", "discriminator_predictions.dense_prediction"),
            ),
            copies={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
            buffers=(r"(electra\.)?embeddings\.position_ids",),
            prefix="electra.",
        )

    def objective(self, parts: frozenset[str]) -> Objective:
        return RTD() if "discriminator_head" in parts else MLM()

    def nets(self, config: ELECTRA, vocab: VocabSpec) -> tuple[Any, ...]:
        # No net has both heads on one body; the size of the generator beside the discriminator does not matter here.
        return MLM().net(config, vocab), RTD(generator=1.0).net(config, vocab)
