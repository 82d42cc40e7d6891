"""RoBERTa (Liu et al., 2019): transformers' `roberta`."""

from typing import Any

from ptjax.config import UserError
from ptjax.data.tokenizers import VocabSpec
from ptjax.interop.bert import FIELDS, FIXED, blocks, dense, embeddings, norm, read, write
from ptjax.interop.family import Family, need
from ptjax.interop.tables import Entry, Table
from ptjax.models.roberta import FIRST_POSITION, RoBERTa
from ptjax.models.sentence_net import NextSentenceModel, sentence_pair_model
from ptjax.objectives import MLM


class RobertaFamily(Family):
    """Their position table counts the rows in front of the first position too, of which the padding has one."""

    model_type = "roberta"
    body = RoBERTa
    architectures = {
        "RobertaModel": frozenset({"body", "pooler"}),
        "RobertaForMaskedLM": frozenset({"body", "head"}),
    }

    def config(self, theirs: dict[str, Any]) -> RoBERTa:
        need(theirs, "pad_token_id", FIRST_POSITION - 1, default=FIRST_POSITION - 1)
        fields = read(theirs, FIELDS, FIXED)
        if fields["max_length"] <= FIRST_POSITION:
            raise UserError(
                f"config.json has max_position_embeddings={fields['max_length']}, of which RoBERTa leaves "
                f"{FIRST_POSITION} unused: it must be more"
            )
        return RoBERTa(**fields | {"max_length": fields["max_length"] - FIRST_POSITION})

    def describe(self, config: RoBERTa, rows: int) -> dict[str, Any]:
        return write(config, FIELDS, FIXED) | {
            "vocab_size": rows,
            "max_position_embeddings": FIRST_POSITION + config.max_length,
            "pad_token_id": FIRST_POSITION - 1,
        }

    def check_special(self, ids: dict[str, int | None]) -> None:
        pad = ids.get("pad_token_id", FIRST_POSITION - 1)
        if pad != FIRST_POSITION - 1:
            has = "has no padding" if pad is None else f"has pad_token_id={pad}"
            raise UserError(
                f"this vocabulary {has}, and transformers numbers RoBERTa's positions from pad_token_id, which has to "
                f"be {FIRST_POSITION - 1}: with another one it would compute other numbers. Train a BERT, or a RoBERTa "
                "on a corpus prepared with RoBERTa's tokenizer"
            )

    def table(self, config: RoBERTa) -> Table:
        return Table(
            (
                *embeddings("roberta.", config),
                *blocks("roberta.", config.layers),
                *dense("pooler/dense", "roberta.pooler.dense"),
                *dense("head/dense", "lm_head.dense"),
                *norm("head/norm", "lm_head.layer_norm"),
                Entry("head/bias", "lm_head.bias", "table"),
            ),
            copies={
                "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
                "lm_head.decoder.bias": "lm_head.bias",
            },
            buffers=(r"(roberta\.)?embeddings\.position_ids",),
            prefix="roberta.",
        )

    def objective(self, parts: frozenset[str]) -> MLM:
        return MLM()

    def nets(self, config: RoBERTa, vocab: VocabSpec) -> tuple[Any, ...]:
        # Checkpoints have a pooler, although nothing asked it in pre-training.
        return (sentence_pair_model(NextSentenceModel, config, vocab.size),)
