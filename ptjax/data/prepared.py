"""What a prepared folder says of itself: its tokenizer and its metadata, without its tokens."""

import dataclasses
import json
from pathlib import Path

from ptjax.config import UserError
from ptjax.data.manifest import Manifest
from ptjax.data.prepare import METADATA, Corpus, check_inputs
from ptjax.data.tokenizers import TOKENIZER_FILES, Tokenizer, open_tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A prepared folder. metadata: contents of its metadata.json. tokenizer: the one that its data was encoded with."""

    folder: Path
    manifest: Manifest
    metadata: dict
    tokenizer: Tokenizer

    @classmethod
    def open(cls, corpus: Corpus) -> "Prepared":
        """Reads no tokens: whether the files of a split are there is checked when the split is opened.

        Raises UserError: not prepared, prepared from other inputs, another tokenizer than the data's.
        """
        folder = Path(corpus.path).expanduser()
        manifest = Manifest.load(folder)
        if manifest is None or not manifest.complete:
            state = "holds no prepared corpus" if manifest is None else "is prepared only in part"
            remedy = "run `python -m experiments.prepare` with the same --config"
            if corpus.source is None:
                remedy = "data.corpus.path names another folder, or the text to prepare is to be named: corpus.source"
            raise UserError(f"{folder} {state}: {remedy}")
        if corpus.source is not None:
            check_inputs(manifest, corpus.inputs(), folder)
        manifest.check(folder, only={METADATA, *TOKENIZER_FILES})
        metadata = json.loads((folder / METADATA).read_text())
        tokenizer = open_tokenizer(folder, metadata["boundary_side"])
        if tokenizer.hash != metadata["tokenizer"]["sha256"]:
            raise UserError(
                f"{tokenizer.path} is not the tokenizer that the data set in {folder} was encoded "
                f"with: restore it, or delete {folder} and prepare it again"
            )
        return cls(folder, manifest, metadata, tokenizer)

    def check_split(self, name: str) -> None:
        """Raises UserError where there is no such split, or a file is missing or has another size."""
        splits = self.metadata["splits"]
        if not splits:
            raise UserError(
                f"{self.folder} holds a tokenizer and no text: name a corpus that was prepared with this tokenizer, "
                "data.corpus.path=FOLDER"
            )
        if name not in splits:
            raise UserError(
                f"{self.folder} has no split {name!r}, only {', '.join(splits)}: "
                "prepare it with validation_fraction above 0 or a validation source"
            )
        self.manifest.check(self.folder)
