"""Tokenizers, trained here or imported, behind one interface; and what a model may know of their vocabularies."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import chz

from ptjax.config import Config
from ptjax.data.tokenizers import sentencepiece
from ptjax.data.tokenizers.base import Tokenizer
from ptjax.data.tokenizers.folder import MAIN_FILES, TOKENIZER_FILES, open_tokenizer
from ptjax.data.tokenizers.vocab import CONTROL_PIECES, Side, VocabSpec

__all__ = [
    "CONTROL_PIECES",
    "MAIN_FILES",
    "TOKENIZER_FILES",
    "Side",
    "Tokenizer",
    "VocabSpec",
    "open_tokenizer",
]  # beside the configs below


@chz.chz
class TokenizerSource(Config):
    """Base of what a corpus's tokenizer can be."""

    def check(self, boundary: Side) -> None:
        """Raises UserError where it is sure to fail, before any text is read."""

    def sample(self) -> int:
        """How many bytes of text it is made from."""
        return 0

    def files(self, texts: Iterable[str]) -> dict[str, bytes]:
        """Name -> contents of the tokenizer's files, the last of which completes it. texts: the sample."""
        raise NotImplementedError

    def inputs(self) -> dict[str, str]:
        """What decides about it beside the fields, by name."""
        return {}


@chz.chz
class SentencePiece(TokenizerSource):
    """How to train a tokenizer. The default normalisation is the identity: `decode(encode(text)) == text`."""

    model: Literal["unigram", "bpe"] = chz.field(default="unigram", doc="segmentation model: unigram or bpe")
    vocab_size: int = chz.field(default=8192, doc="pieces in all, with 7 control and 256 byte pieces among them")
    byte_fallback: bool = chz.field(default=True, doc="spell unknown characters in UTF-8 bytes: nothing is lost")
    character_coverage: float = chz.field(
        default=0.9995, doc="share of the text's characters that have their own piece, 0.98 to 1"
    )
    normalization: Literal["identity", "nfkc", "nmt_nfkc", "nfkc_cf", "nmt_nfkc_cf"] = chz.field(
        default="identity", doc="SentencePiece normalisation rule; any but identity loses information"
    )
    sample_bytes: int = chz.field(default=4_000_000, doc="at most so many bytes of text train the tokenizer")

    def sample(self) -> int:
        return self.sample_bytes

    def train(self, texts: Iterable[str]) -> bytes:
        """Trains on all of `texts`; the serialized model. The same texts give the same bytes on any number of cores."""
        return sentencepiece.train(
            texts,
            model=self.model,
            vocab_size=self.vocab_size,
            byte_fallback=self.byte_fallback,
            character_coverage=self.character_coverage,
            normalization=self.normalization,
        )

    def files(self, texts: Iterable[str]) -> dict[str, bytes]:
        return {sentencepiece.MODEL: self.train(texts)}


@chz.chz
class Imported(TokenizerSource):
    """The tokenizer of a published model, as it is: its files are copied into the corpus."""

    path: str = chz.field(doc="a folder of Hugging Face files, or one file: tokenizer.json, a SentencePiece model, ...")

    def check(self, boundary: Side) -> None:
        open_tokenizer(self.path, boundary)

    def files(self, texts: Iterable[str]) -> dict[str, bytes]:
        return open_tokenizer(self.path).files()

    def inputs(self) -> dict[str, str]:
        """Its hash, so that the folder may move; nothing where it is gone: a prepared corpus has its own copy."""
        return {"sha256": open_tokenizer(self.path).hash} if Path(self.path).expanduser().exists() else {}
