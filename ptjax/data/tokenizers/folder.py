"""Which tokenizer a folder holds."""

import os
from pathlib import Path

from ptjax.config import UserError
from ptjax.data.tokenizers import huggingface, published, sentencepiece
from ptjax.data.tokenizers.base import Tokenizer
from ptjax.data.tokenizers.roles import ROLES_FILE, SETTINGS, Roles, Settings
from ptjax.data.tokenizers.vocab import CONTROL_PIECES, Side

MAIN_FILES = (huggingface.TOKENIZER_JSON, *published.MODELS)  # what a prepared folder has one of
TOKENIZER_FILES = frozenset({*MAIN_FILES, *SETTINGS, ROLES_FILE})  # all that it may have of a tokenizer


def open_tokenizer(path: str | os.PathLike, boundary_side: Side | None = None) -> Tokenizer:
    """The tokenizer of a prepared corpus, or of a published model.

    Args:
        path: a folder, or one of the files: tokenizer.json, a SentencePiece model, vocab.json (merges.txt beside it),
            vocab.txt. What stands beside says which pieces play which role, and config.json how many rows there are.
        boundary_side: of the boundary between documents. None: 'end' where the tokenizer has a token for it.

    Raises:
        UserError: no tokenizer there, a damaged one, one of an unknown kind, or without a token for that side.
    """
    path = Path(path).expanduser()
    file = _find(path)
    stored = file.parent / ROLES_FILE
    data = _read(file)
    is_json = file.suffix == ".json" or data[:1] == b"{"
    if not is_json and file.suffix != ".txt" and not stored.is_file() and _is_own(file, data):
        return sentencepiece.SentencePieceTokenizer(file, data, boundary_side)
    settings = Settings.read(file.parent)
    kind, find = huggingface.HuggingFaceTokenizer, huggingface.published_roles
    if file.suffix == ".txt":
        data = huggingface.wordpiece(file, data, settings)
    elif file.name == "vocab.json":
        data = huggingface.byte_level(file, data, _read(file.with_name("merges.txt")), settings)
    elif not is_json:
        kind, find = published.PublishedSentencePiece, published.published_roles
    roles = Roles.from_json(stored) if stored.is_file() else find(file, data, settings)
    return kind(path, data, roles, settings.files, boundary_side)


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    stored = path / ROLES_FILE
    if stored.is_file():
        return path / Roles.from_json(stored).file
    own = path / sentencepiece.MODEL
    if own.is_file() and _is_own(own, _read(own)):  # a tokenizer.json beside it was made from it
        return own
    for name in (*MAIN_FILES, "vocab.json", "vocab.txt"):
        if (path / name).is_file():
            return path / name
    raise UserError(
        f"no tokenizer at {path}: wanted is a folder with tokenizer.json, a SentencePiece model "
        f"({', '.join(published.MODELS)}), vocab.json with merges.txt, or vocab.txt, or such a file; "
        "`python -m experiments.prepare` trains one"
    )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}, a file of the tokenizer: {error.strerror}") from None


def _is_own(file: Path, data: bytes) -> bool:
    """Whether ptjax trained this SentencePiece model."""
    if data[:1] == b"{":  # another format of that name
        return False
    reader = sentencepiece.processor(file, data)
    first = list(range(min(len(CONTROL_PIECES), reader.get_piece_size())))
    return tuple(reader.id_to_piece(first)) == CONTROL_PIECES
