"""SentencePiece tokenizers that lose nothing, and `VocabSpec`: what models and objectives know of a vocabulary."""

import dataclasses
import functools
import hashlib
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Literal

import chz
import numpy as np

from ptjax.config import Config, UserError

Side = Literal["end", "begin"]

CONTROL_PIECES = ("<pad>", "<unk>", "<s>", "</s>", "<mask>", "<cls>", "<sep>")  # ids 0 to 6, in this order
SPACE = "\u2581"  # how SentencePiece writes a space inside a piece
_SENTENCE_ENDS = (".", "!", "?", "\u3002", "\uff01", "\uff1f")  # the latter as Chinese and Japanese write them
_STANDALONE = ("\n", "\t")  # user-defined symbols: a piece of their own wherever they stand
_LINE_BYTES = 4096  # SentencePiece skips longer training lines (default of max_sentence_length: 4192)
_TRAINER_THREADS = 4  # a constant: the sums of the EM algorithm, so the model, depend on the number of threads


@dataclasses.dataclass(frozen=True, eq=False)
class VocabSpec:
    """A vocabulary as plain numbers: all that a model, an objective or a metric may know of the tokenizer.

    A *unit* (word) begins at position i of a row where `starts_word[token[i]] | ends_word[token[i - 1]]`, and at i = 0.
    """

    size: int
    pad_id: int
    unk_id: int
    bos_id: int
    eos_id: int
    mask_id: int
    cls_id: int
    sep_id: int
    boundary_id: int  # the token between documents of the stream: eos_id (side 'end') or bos_id (side 'begin')
    boundary_side: Side  # which side of its document the boundary stands on
    special_ids: tuple[int, ...]  # control pieces and unk: never corrupted, never drawn as a random replacement
    starts_word: np.ndarray  # bool[size]: the piece begins a unit
    ends_word: np.ndarray  # bool[size]: whatever follows begins a unit (punctuation, newline, control pieces)
    ends_sentence: np.ndarray  # bool[size]: the piece's text ends with . ! or ?, or contains a newline
    piece_bytes: np.ndarray  # int32[size]: UTF-8 bytes of text that the piece stands for; control 0, byte pieces 1
    extra: int = 0  # how many of the last ids are an objective's own: sentinels, mode tokens

    @property
    def extra_ids(self) -> range:
        return range(self.size - self.extra, self.size)

    def extended(self, extra: int) -> "VocabSpec":
        """With `extra` special ids behind the tokenizer's own, which have rows in the embedding table and no text."""
        assert not self.extra, "extend the tokenizer's vocabulary once"
        ids, flags = tuple(range(self.size, self.size + extra)), np.ones(extra, bool)
        return dataclasses.replace(
            self,
            size=self.size + extra,
            extra=extra,
            special_ids=self.special_ids + ids,
            starts_word=np.append(self.starts_word, flags),
            ends_word=np.append(self.ends_word, flags),
            ends_sentence=np.append(self.ends_sentence, ~flags),
            piece_bytes=np.append(self.piece_bytes, np.zeros(extra, np.int32)),
        )

    @functools.cached_property
    def ordinary(self) -> np.ndarray:
        """bool[size]: the ids that are text, not special."""
        result = np.ones(self.size, bool)
        result[list(self.special_ids)] = False
        return result

    @classmethod
    def synthetic(cls, size: int, boundary_side: Side = "end") -> "VocabSpec":
        """A vocabulary without a tokenizer, for tests and benchmarks: ids 0 to 6 as `CONTROL_PIECES`, then pieces of
        1 to 4 bytes of which two in three begin a word and one in eight ends a sentence. `size` is at least 8."""
        ids = np.arange(size)
        control = ids < len(CONTROL_PIECES)
        return cls(
            size=size,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            mask_id=4,
            cls_id=5,
            sep_id=6,
            boundary_id=3 if boundary_side == "end" else 2,
            boundary_side=boundary_side,
            special_ids=tuple(range(len(CONTROL_PIECES))),
            starts_word=control | (ids % 3 != 0),
            ends_word=control,
            ends_sentence=~control & (ids % 8 == 0),
            piece_bytes=np.where(control, 0, 1 + ids % 4).astype(np.int32),
        )


@chz.chz
class SentencePiece(Config):
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

    def train(self, texts: Iterable[str]) -> bytes:
        """Trains on all of `texts`; the serialized model. The same texts give the same bytes on any number of cores."""
        import sentencepiece

        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.Train(
                sentence_iterator=_lines(texts),
                model_writer=model,
                model_type=self.model,
                vocab_size=self.vocab_size,
                byte_fallback=self.byte_fallback,
                character_coverage=self.character_coverage,
                normalization_rule_name=self.normalization,
                remove_extra_whitespaces=False,
                add_dummy_prefix=False,
                allow_whitespace_only_pieces=True,
                split_digits=False,
                user_defined_symbols=list(_STANDALONE),
                pad_id=0,
                unk_id=1,
                bos_id=2,
                eos_id=3,
                pad_piece="<pad>",
                unk_piece="<unk>",
                bos_piece="<s>",
                eos_piece="</s>",
                control_symbols=["<mask>", "<cls>", "<sep>"],
                num_threads=_TRAINER_THREADS,
                minloglevel=2,
            )
        except (RuntimeError, ValueError) as error:
            raise UserError(_training_advice(str(error), self)) from error
        return model.getvalue()


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Lines as SentencePiece wants them: not empty, no newline, at most `_LINE_BYTES` bytes."""
    for text in texts:
        for line in text.split("\n"):
            for start in range(0, len(line), _LINE_BYTES // 4):  # a character has at most 4 bytes
                yield line[start : start + _LINE_BYTES // 4]


def _training_advice(message: str, config: SentencePiece) -> str:
    """What to change, from SentencePiece's own words."""
    if match := re.search(r"Vocabulary size too high \(\d+\).*?<= (\d+)", message):
        return f"tokenizer.vocab_size={config.vocab_size} is more than this text supports: set it to {match[1]} or less"
    if match := re.search(r"[Vv]ocabulary size is smaller than required_chars.*?(\d+) vs (\d+)", message):
        least = int(match[2]) + 1
        return (
            f"tokenizer.vocab_size={config.vocab_size} has no room for the text's characters: set it to {least} or "
            f"more, or lower tokenizer.character_coverage={config.character_coverage}"
        )
    if match := re.search(r"trainer_spec\.(\w+)\(\) ([<>].*)\]", message):
        return f"tokenizer.{match[1]} is out of range; SentencePiece wants it {match[2].replace('trainer_spec.', '')}"
    return f"SentencePiece cannot train on this text: {message.strip()}"


class Tokenizer:
    """A trained SentencePiece model. Thread-safe; pickles as its path.

    Args:
        path: the model file.
        boundary_side: where the boundary between documents stands; sets `vocab.boundary_id`.
    """

    def __init__(self, path: str | os.PathLike, boundary_side: Side = "end"):
        self.path = os.fspath(path)
        self.boundary_side = boundary_side
        try:
            with open(self.path, "rb") as file:
                model = file.read()
        except FileNotFoundError:
            raise UserError(f"no tokenizer at {self.path}: `python -m experiments.prepare` trains one") from None
        import sentencepiece

        self.hash = hashlib.sha256(model).hexdigest()
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise UserError(f"{self.path} is not a SentencePiece model, or is damaged: {error}") from error

    def __reduce__(self):
        return Tokenizer, (self.path, self.boundary_side)

    def encode(self, text: str) -> np.ndarray:
        """Token ids int32[n] of the text alone: no control piece is added, and none is read out of the text."""
        if SPACE not in text:
            return self._processor.encode(text, return_type="numpy")
        # This character would come back as a space: spell it in bytes.
        parts = [self._processor.encode(part, return_type="numpy") for part in text.split(SPACE)]
        return np.concatenate([parts[0], *(x for part in parts[1:] for x in (self._spelled_space, part))])

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """`encode` of each text, on one core; other Python threads run meanwhile."""
        if any(SPACE in text for text in texts):
            return [self.encode(text) for text in texts]
        return self._processor.encode(texts, return_type="numpy", num_threads=1)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; control pieces vanish, bytes that are no UTF-8 become U+FFFD."""
        return self._processor.decode([int(i) for i in ids])

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The pieces as they are written in the vocabulary ('▁' is a space, '<0x0A>' a byte)."""
        return self._processor.id_to_piece([int(i) for i in ids])

    @functools.cached_property
    def _spelled_space(self) -> np.ndarray:
        ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]
        return np.array(ids if self._processor.unk_id() not in ids else ids[:1], np.int32)

    @functools.cached_property
    def vocab(self) -> VocabSpec:
        sp = self._processor
        size = sp.get_piece_size()
        everything = list(range(size))
        pieces = sp.id_to_piece(everything)
        ids = {piece: sp.piece_to_id(piece) for piece in CONTROL_PIECES}
        missing = [piece for piece, i in ids.items() if pieces[i] != piece]
        if missing:
            raise UserError(
                f"{self.path} lacks the control pieces {' '.join(missing)}; ptjax needs all of "
                f"{' '.join(CONTROL_PIECES)}: train it with `python -m experiments.prepare`"
            )
        special = np.array(sp.is_control(everything)) | np.array(sp.is_unknown(everything))
        byte = np.array(sp.is_byte(everything))
        alone = special | np.array([not byte[i] and _is_punctuation(pieces[i]) for i in range(size)])
        texts = [chr(int(piece[3:5], 16)) if byte[i] else piece for i, piece in enumerate(pieces)]  # <0x3F> is "?"
        text_bytes = [len(piece.replace(SPACE, " ").encode()) for piece in pieces]
        return VocabSpec(
            size=size,
            pad_id=ids["<pad>"],
            unk_id=ids["<unk>"],
            bos_id=ids["<s>"],
            eos_id=ids["</s>"],
            mask_id=ids["<mask>"],
            cls_id=ids["<cls>"],
            sep_id=ids["<sep>"],
            boundary_id=ids["</s>"] if self.boundary_side == "end" else ids["<s>"],
            boundary_side=self.boundary_side,
            special_ids=tuple(np.flatnonzero(special).tolist()),
            starts_word=alone | np.array([piece.startswith(SPACE) for piece in pieces]),
            ends_word=alone,
            ends_sentence=~special & np.array([text.endswith(_SENTENCE_ENDS) or "\n" in text for text in texts]),
            piece_bytes=np.where(special, 0, np.where(byte, 1, text_bytes)).astype(np.int32),
        )


def _is_punctuation(piece: str) -> bool:
    """Nothing but spaces (a single one begins a word), line ends, punctuation and symbols; "_" counts as a letter."""
    return piece != SPACE and all(
        c != "_" and (c.isspace() or c == SPACE or unicodedata.category(c)[0] in "PS") for c in piece
    )
