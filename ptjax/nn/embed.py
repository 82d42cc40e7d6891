"""Token, position and sentence-type embeddings."""

import jax.numpy as jnp
from flax import linen as nn

from ptjax.types import Array, TextInput


class TextEmbed(nn.Module):
    """Sum of learned embeddings, [B, L] -> [B, L, D]. types = 0: no sentence types (GPT); max_length = 0: no
    positions (T5). first_position: the row of a document's first token, behind rows that are never read (RoBERTa).

    vocab_size is padded. The table's width has a logical name of its own: shared with the layers' 'embed' it made
    the partitioner gather whole activations.
    """

    vocab_size: int
    width: int
    max_length: int
    types: int
    std: float
    position_std: float
    dtype: jnp.dtype = jnp.float32
    first_position: int = 0

    def setup(self):
        def table(name, rows, axes, std):
            init = nn.with_logical_partitioning(nn.initializers.normal(std), axes)
            return self.param(name, init, (rows, self.width), jnp.float32)

        self.tokens = table("tokens", self.vocab_size, ("vocab", "table"), self.std)
        if self.max_length:
            rows = self.first_position + self.max_length
            self.positions = table("positions", rows, ("position", "table"), self.position_std)
        if self.types:
            self.sentence_types = table("types", self.types, ("type", "table"), self.std)

    def __call__(self, inputs: TextInput) -> Array:
        x_BLD = self.tokens[inputs.tokens]
        if self.max_length:
            x_BLD = x_BLD + self.positions[self.first_position + inputs.positions]
        if self.types:
            # Where there is one type, every sentence is of it.
            no_types = inputs.types is None or self.types == 1
            types = jnp.zeros_like(inputs.tokens) if no_types else inputs.types
            x_BLD = x_BLD + self.sentence_types[types]
        return x_BLD.astype(self.dtype)

    def table(self) -> Array:
        """The token embedding, f32[V, D], for heads that tie their projection to it."""
        return self.tokens
