"""Nets that answer a source with a target: over an encoder and a decoder, or over one stack that reads both."""

import jax.numpy as jnp
from flax import linen as nn

from ptjax.config import UserError
from ptjax.models.base import TextModelConfig
from ptjax.models.heads import LanguageHead, LanguageModel, VocabularyNet
from ptjax.types import Array, Hidden, Mask, PairInput, PyTree, TextInput


class PairHead(nn.Module):
    """T5's projection: the embedding table under a scale of width ** -0.5 (1.0), or a table of its own (1.1)."""

    config: TextModelConfig
    vocab_size: int

    def setup(self):
        c = self.config
        if not c.tied:
            init = nn.with_logical_partitioning(nn.initializers.normal(c.std * c.width**-0.5), ("vocab", "table"))
            self.own = self.param("table", init, (self.vocab_size, c.width), jnp.float32)

    def __call__(self, h_D: Array, embedding_VD: Array) -> tuple[Array, Array, None]:
        """[..., D] and the embedding table -> (features [..., D], table [V, D], None), of logits features . table."""
        if self.config.tied:
            return h_D * self.config.width**-0.5, embedding_VD, None
        return h_D, self.own, None


class PairModel(VocabularyNet):
    """An encoder-decoder body under a vocabulary head. A text, where a pair is due, stands for itself twice: so that
    every net can be initialised alike."""

    head: PairHead

    def __call__(self, inputs: PairInput | TextInput) -> Array:
        if isinstance(inputs, TextInput):
            inputs = PairInput(inputs, inputs)
        return super().__call__(inputs)

    def scores(self, h_ND: Array) -> tuple[Array, Array, None]:
        return self.head(h_ND, self.body.table())


class PrefixModel(LanguageModel):
    """A text body that reads a pair as one row, [source ; target]: every target position sees its document's source
    and what precedes it in its target, and source positions see each other (Raffel et al., 2020, section 3.2.1)."""

    config: TextModelConfig

    def hidden(self, inputs: PairInput | TextInput, state: PyTree = None, *, train: bool = False) -> Hidden:
        """Of the target positions, [B, T, D]."""
        if isinstance(inputs, TextInput):
            return self.body(inputs, state, train=train)
        row = joined(inputs)
        length = row.tokens.shape[1]
        try:
            self.config.check_length(length)
        except UserError as error:
            raise UserError(
                f"source and target are read as one row of {length} positions, and the position table has "
                f"{self.config.max_length}: set model.max_length={length} or more"
            ) from error
        hidden = self.body(row, state, train=train)
        return Hidden(hidden.last[:, inputs.source.tokens.shape[1] :], hidden.state)


def joined(inputs: PairInput) -> TextInput:
    """A pair as one row. In every document the target's positions go on after the source's, and distances follow
    positions: what a body makes of a document depends neither on padding nor on other documents."""
    source, target = inputs.source, inputs.target
    same_BTS = target.mask.segments[:, :, None] == source.mask.segments[:, None, :]
    after_BT = jnp.sum(same_BTS & source.mask.valid[:, None, :], axis=2, dtype=jnp.int32)
    both = lambda a, b: jnp.concatenate([a, b], axis=1)
    mask = Mask(
        causal=True,
        valid=both(source.mask.valid, target.mask.valid),
        segments=both(source.mask.segments, target.mask.segments),
        prefix=both(source.mask.valid, jnp.zeros_like(target.mask.valid)),
    )
    positions = both(source.positions, target.positions + after_BT)
    return TextInput(both(source.tokens, target.tokens), positions, mask, scattered=True)


def pair_net(config: TextModelConfig, vocab_size: int) -> nn.Module:
    """The net that reads a `PairInput` over this body. vocab_size: without padding."""
    padded = config.padded_vocab(vocab_size)
    body = config.build(padded)
    if "pairs" in config.offers:
        return PairModel(body, PairHead(config, padded))
    return PrefixModel(body, LanguageHead(config, padded, transform=False, bias=False), config)
