"""Masked language modelling on pairs of sentences, with a question about the pair (BERT, ALBERT)."""

import chz
import jax
import jax.numpy as jnp

from ptjax.data.transforms import SentencePairs
from ptjax.models.sentence_net import NextSentenceModel, SentenceOrderModel, sentence_pair_model
from ptjax.objectives.masking import ordinary
from ptjax.objectives.mlm import MLM
from ptjax.types import Losses, Mask, TextInput


@chz.chz
class PairedMLM(MLM):
    """What NSP and SOP share: the row becomes [CLS] A [SEP] B [SEP] (see `SentencePairs`), some of its tokens are
    hidden as in MLM, and BERT's pooler answers whether B follows A. Both terms have the coefficient 1."""

    kind = None  # of `SentencePairs`
    term = None  # name of the question's loss
    model = None  # the net

    def transforms(self):
        return (SentencePairs(self.kind),)

    def corrupt(self, batch, context):
        """As MLM does, of the pair rather than the row."""
        pair_BL = batch[f"{self.kind}_tokens"]
        return batch | self.masked(pair_BL, ordinary(pair_BL, context.vocab), context)

    def inputs(self, batch, vocab):
        tokens_BL = batch["tokens"]
        positions_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1], dtype=jnp.int32), tokens_BL.shape)
        # A row is one pair, all of which sees all of it.
        mask = Mask(valid=batch["original"] != vocab.pad_id)
        return TextInput(tokens_BL, positions_BL, mask, batch[f"{self.kind}_types"])

    def weights(self, batch, vocab):
        return super().weights(batch, vocab) | {self.term: batch[f"{self.kind}_weight"].sum()}

    def net(self, body, vocab):
        return sentence_pair_model(self.model, body, vocab.size)

    def scored(self, net, variables, hidden, batch, context):
        losses = super().scored(net, variables, hidden, batch, context)
        logits_B2 = net.apply(variables, hidden.last, method="answer")
        label_B, weight_B = batch[f"{self.kind}_label"], batch[f"{self.kind}_weight"]
        nll_B = -jnp.take_along_axis(jax.nn.log_softmax(logits_B2), label_B[:, None], axis=1)[:, 0]
        correct_B = (logits_B2.argmax(axis=1) == label_B).astype(jnp.float32)
        accuracy = {f"{self.term}_accuracy": (jnp.sum(correct_B * weight_B), weight_B.sum())}
        return Losses(losses.totals | {self.term: jnp.sum(nll_B * weight_B)}, losses.metrics | accuracy)

    def predicted(self, length):
        """Of a row whose pair fills it but for the three control tokens."""
        return super().predicted(max(length - 3, 0)) | {self.term: 1}

    def flops_per_row(self, body, length, vocab):
        return super().flops_per_row(body, length, vocab) + 2.0 * body.width * (body.width + 2)


@chz.chz
class NSP(PairedMLM):
    """BERT's objective (Devlin et al., 2019): MLM, and next sentence prediction: half of the time B comes from another
    document."""

    kind, term, model = "next", "nsp", NextSentenceModel


@chz.chz
class SOP(PairedMLM):
    """ALBERT's objective (Lan et al., 2020): MLM, and sentence order prediction: half of the time the sentences of A
    and B are swapped. Parts of sentences at the row's ends stay there (ALBERT's rows are of whole sentences).
    ALBERT hides spans: unit='span', span_p=0.45, span_max=3 come near its n-grams."""

    kind, term, model = "order", "sop", SentenceOrderModel
