"""Replaced token detection (ELECTRA): which tokens of a text did a small masked language model make up?"""

import math

import chz
import jax
import jax.numpy as jnp
import numpy as np

from ptjax.data.tokenizers import VocabSpec
from ptjax.models.electra_net import electra_net, generator_config, sample
from ptjax.objectives.base import StepContext, packed_input, segments_of
from ptjax.objectives.cross_entropy import cross_entropy
from ptjax.objectives.masking import MaskedObjective, ordinary, placed
from ptjax.types import Array, Batch, Losses, TextInput


@chz.chz
class RTD(MaskedObjective):
    """Clark et al., 2020: a generator learns masked language modelling and fills what is hidden by sampling; the body,
    the discriminator, says of every token whether it was replaced. A sample that happens to be right is original.

    Both read one embedding, of tokens, positions and types alike, and no gradient passes through the samples. As in the
    authors' code the generator sees 85 % of the hidden as the mask and the others as they are, and all of them are
    sampled. Unlike there, special ids are never drawn, and the generator has an embedding norm of its own, where there
    one serves both. The paper's body is `ELECTRA`; another's generator reads its embedding projected to its own width.
    """

    mask_share: float = chz.field(default=0.85, doc="share of the hidden that the generator sees as the mask")
    random_share: float = chz.field(default=0.0, doc="share of the hidden that it sees as a random piece")
    generator: float = chz.field(default=0.25, doc="its width, heads and hidden units as a share of the body's")
    depth: float = chz.field(default=1.0, doc="its layers as a share of the body's; DeBERTaV3 (He et al., 2023): 0.5")
    coefficient: float = chz.field(default=50.0, doc="of the discriminator's loss; the generator's has 1")

    @chz.validate
    def _sizes(self):
        for name in ("generator", "depth"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], not {getattr(self, name)}")
        if self.coefficient < 0:
            raise ValueError(f"coefficient must be at least 0, not {self.coefficient}")

    def coefficients(self):
        return {"discriminator": self.coefficient}

    def predicted(self, length):
        return {"generator": self.mean_hidden(length), "discriminator": length}

    def projected(self, length):
        return self.most_hidden(length)

    def flops_per_row(self, body, length, vocab):
        small, chosen = generator_config(body, self.generator, self.depth), self.projected(length)
        head = 2.0 * body.table_width * (small.width + body.padded_vocab(vocab.size))
        generator = length * small.flops_per_token(length) + chosen * head
        if small.table_width != body.table_width:
            generator += length * 2.0 * body.table_width * small.table_width
        detection = 2.0 * body.width**2 + 2.0 * body.width
        return length * (body.flops_per_token(length) + detection) + generator

    def corrupt(self, batch, context):
        """Adds original, positions and weights as `MLM` does, and noise: u32[B, K], a key of each row's own with which
        the generator's distribution will be sampled."""
        tokens_BL, vocab = batch["tokens"], context.vocab
        noise_B = jax.vmap(lambda key: jax.random.fold_in(key, 1))(context.keys)
        hidden = self.masked(tokens_BL, ordinary(tokens_BL, vocab), context)
        return batch | hidden | {"noise": jax.random.key_data(noise_B)}

    def _inputs(self, tokens_BL: Array, batch: Batch, vocab: VocabSpec) -> TextInput:
        return packed_input(tokens_BL, segments_of(batch["original"], vocab), vocab, causal=False)

    def inputs(self, batch, vocab):
        """What the generator reads."""
        return self._inputs(batch["tokens"], batch, vocab)

    def weights(self, batch, vocab):
        real = batch["original"] != vocab.pad_id
        return {"generator": batch["weights"].sum(), "discriminator": real.sum().astype(jnp.float32)}

    def net(self, body, vocab):
        return electra_net(body, vocab.size, generator=self.generator, depth=self.depth)

    def losses(self, net, variables, batch: Batch, context: StepContext) -> Losses:
        vocab, original_BL, position_BP = context.vocab, batch["original"], batch["positions"]

        h_BLG = context.apply(net, variables, self.inputs(batch, vocab), method="generated")
        h_BPG = jnp.take_along_axis(h_BLG, position_BP[..., None], axis=1)
        features_BPD, table, bias = net.apply(variables, h_BPG, method="generator_scores")
        label_BP = jnp.take_along_axis(original_BL, position_BP, axis=1)
        features_ND = features_BPD.reshape(-1, features_BPD.shape[-1])
        scores = cross_entropy(features_ND, table, bias, label_BP.reshape(-1), size=vocab.size)
        weights_N = batch["weights"].reshape(-1)

        allowed_V = jnp.asarray(np.pad(vocab.ordinary, (0, table.shape[0] - vocab.size)))
        drawn_BP = sample(batch["noise"], features_BPD, table, bias, allowed_V)
        drawn_BP = jnp.where(batch["weights"] > 0, drawn_BP, label_BP)
        shown_BL = placed(original_BL, position_BP, drawn_BP)
        replaced_BL = (shown_BL != original_BL).astype(jnp.float32)

        logit_BL = context.apply(net, variables, self._inputs(shown_BL, batch, vocab), method="detect")
        real_BL = (original_BL != vocab.pad_id).astype(jnp.float32)
        # -log p(answer) of a sigmoid: softplus(z) where it is no, softplus(-z) = softplus(z) - z where it is yes.
        detection_BL = jax.nn.softplus(logit_BL) - logit_BL * replaced_BL
        found_BL = (logit_BL > 0).astype(jnp.float32)

        generator, discriminator = jnp.sum(scores.loss * weights_N), jnp.sum(detection_BL * real_BL)
        chosen, real, replaced = weights_N.sum(), real_BL.sum(), replaced_BL.sum()
        metrics = {
            "accuracy": (jnp.sum((found_BL == replaced_BL) * real_BL), real),
            "recall": (jnp.sum(found_BL * replaced_BL), replaced),
            "replaced": (replaced, real),
            "generator_nll": (jnp.sum(scores.nll * weights_N), chosen),
            "generator_accuracy": (jnp.sum(scores.correct * weights_N), chosen),
        }
        return Losses({"generator": generator, "discriminator": discriminator}, metrics)

    def trivial(self, scores, unigram):
        """What the discriminator is to beat: the entropy of a coin that says "replaced" as often as is true."""
        share = scores["replaced"]
        entropy = -sum(p * math.log(p) for p in (share, 1 - share) if p > 0)
        return "loss/discriminator", 'entropy of "replaced or not"', entropy
