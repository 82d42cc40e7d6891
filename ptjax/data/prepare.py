"""From a text source to a prepared corpus: SentencePiece model, TFDS data set of token blocks, metadata, manifest."""

import chz

from ptjax.config import Config
from ptjax.data.sources import Source
from ptjax.data.tokenizers import SentencePiece, Side


@chz.chz
class Corpus(Config):
    """A prepared text corpus: the folder, and what it is made of."""

    path: str = chz.field(doc="folder of the prepared corpus; `python -m experiments.prepare` writes it")
    source: Source = chz.field(meta_factory=chz.factories.subclass(Source), doc="documents to train on")
    validation: Source | None = chz.field(
        default=None, meta_factory=chz.factories.subclass(Source),
        doc="documents to validate on; None holds out validation_fraction of the source")
    validation_fraction: float = chz.field(default=0.05, doc="share of the documents held out, chosen by a stable hash")
    tokenizer: SentencePiece = chz.field(default_factory=SentencePiece, doc="how to train the tokenizer")
    block: int = chz.field(default=1024, doc="tokens a record")
    boundary: Side = chz.field(default="end", doc="token between documents: 'end' writes eos after each, 'begin' bos before")


def prepare(corpus: Corpus, *, workers: int | None = None, progress=None) -> dict:
    """Prepares `corpus` in its folder; resumes what a killed run left."""
    raise NotImplementedError
