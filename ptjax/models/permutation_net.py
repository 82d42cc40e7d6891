"""XLNet's net: a body of two streams under an output bias."""

from ptjax.models.base import TextModelConfig
from ptjax.models.heads import LanguageHead, VocabularyNet
from ptjax.types import Array


class PermutationNet(VocabularyNet):
    """The embedding table scores what the queries have gathered, plus a bias for each piece (Yang et al., 2019)."""

    permutation_head: LanguageHead

    def scores(self, h_ND: Array) -> tuple[Array, Array, Array | None]:
        return self.permutation_head(h_ND, self.body.table())


def permutation_net(config: TextModelConfig, vocab_size: int) -> PermutationNet:
    """vocab_size: the tokenizer's; the net's tables have `config.padded_vocab` rows."""
    padded = config.padded_vocab(vocab_size)
    return PermutationNet(config.build(padded), LanguageHead(config, padded, transform=False, bias=True))
