"""XLNet's net: a body of two streams under an output bias."""

from flax import linen as nn

from ptjax.models.base import TextModelConfig
from ptjax.models.heads import LanguageHead
from ptjax.types import Array, Hidden, PyTree, TextInput


class PermutationNet(nn.Module):
    """The embedding table scores what the queries have gathered, plus a bias for each piece (Yang et al., 2019)."""

    body: nn.Module
    permutation_head: LanguageHead

    def __call__(self, inputs: TextInput) -> tuple[Array, Array, Array | None]:
        return self.scores(self.hidden(inputs).last)

    def hidden(self, inputs: TextInput, state: PyTree = None, *, train: bool = False) -> Hidden:
        return self.body(inputs, state, train=train)

    def scores(self, h_ND: Array) -> tuple[Array, Array, Array | None]:
        """(features [N, D], table [V, D], bias [V]), for a loss with its own way to the logits."""
        features, bias = self.permutation_head(h_ND)
        return features, self.body.table(), bias


def permutation_net(config: TextModelConfig, vocab_size: int) -> PermutationNet:
    """vocab_size: the tokenizer's; the net's tables have `config.padded_vocab` rows."""
    padded = config.padded_vocab(vocab_size)
    return PermutationNet(config.build(padded), LanguageHead(config, padded, transform=False, bias=True))
