"""Your own text files as a corpus: `--config=configs/corpus.py:glob='my/texts/*.txt'`."""

from ptjax.data.prepare import Corpus
from ptjax.data.sources import TextFiles


def get_config(glob: str, path: str = "data/corpus") -> Corpus:
    return Corpus(path=path, source=TextFiles(glob=glob))
