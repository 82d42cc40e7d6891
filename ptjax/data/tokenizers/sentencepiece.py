"""SentencePiece tokenizers that lose nothing: training them, and using them."""

import functools
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ptjax.config import UserError
from ptjax.data.tokenizers import export
from ptjax.data.tokenizers.base import Tokenizer, write_files
from ptjax.data.tokenizers.roles import ROLES
from ptjax.data.tokenizers.spans import SPACE, normalised_spans
from ptjax.data.tokenizers.vocab import CONTROL_PIECES, Side, VocabSpec, text_tables

MODEL = "tokenizer.model"
_STANDALONE = ("\n", "\t")  # user-defined symbols: a piece of their own wherever they stand
_LINE_BYTES = 4096  # SentencePiece skips longer training lines (default of max_sentence_length: 4192)
_TRAINER_THREADS = 4  # a constant: the sums of the EM algorithm, so the model, depend on the number of threads


def train(
    texts: Iterable[str],
    *,
    model: str,
    vocab_size: int,
    byte_fallback: bool,
    character_coverage: float,
    normalization: str,
) -> bytes:
    """Trains on all of `texts`; the serialized model. The same texts give the same bytes on any number of cores.
    Raises UserError that says which setting the text does not support."""
    import sentencepiece

    file = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=_lines(texts),
            model_writer=file,
            model_type=model,
            vocab_size=vocab_size,
            byte_fallback=byte_fallback,
            character_coverage=character_coverage,
            normalization_rule_name=normalization,
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
        raise UserError(_training_advice(str(error), vocab_size, character_coverage)) from error
    return file.getvalue()


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Lines as SentencePiece wants them: not empty, no newline, at most `_LINE_BYTES` bytes."""
    for text in texts:
        for line in text.split("\n"):
            for start in range(0, len(line), _LINE_BYTES // 4):  # a character has at most 4 bytes
                yield line[start : start + _LINE_BYTES // 4]


def _training_advice(message: str, vocab_size: int, character_coverage: float) -> str:
    """What to change, from SentencePiece's own words."""
    if match := re.search(r"Vocabulary size too high \(\d+\).*?<= (\d+)", message):
        return f"tokenizer.vocab_size={vocab_size} is more than this text supports: set it to {match[1]} or less"
    if match := re.search(r"[Vv]ocabulary size is smaller than required_chars.*?(\d+) vs (\d+)", message):
        least = int(match[2]) + 1
        return (
            f"tokenizer.vocab_size={vocab_size} has no room for the text's characters: set it to {least} or "
            f"more, or lower tokenizer.character_coverage={character_coverage}"
        )
    if match := re.search(r"trainer_spec\.(\w+)\(\) ([<>].*)\]", message):
        return f"tokenizer.{match[1]} is out of range; SentencePiece wants it {match[2].replace('trainer_spec.', '')}"
    return f"SentencePiece cannot train on this text: {message.strip()}"


class SentencePieceTokenizer(Tokenizer):
    """A model that `train` made. model: its bytes, read from `path`. Raises UserError for bytes that are none."""

    def __init__(self, path: str | os.PathLike, model: bytes, boundary_side: Side | None = None):
        self.path, self.boundary_side = os.fspath(path), boundary_side or "end"
        self.hash = hashlib.sha256(model).hexdigest()
        self._model, self._processor = model, processor(path, model)

    def encode(self, text: str) -> np.ndarray:
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

    def _spans(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        ids, spans, start = [], [], 0
        for part in text.split(SPACE):
            if start:  # spelled in bytes, as `encode` does it
                ids.append(self._spelled_space)
                spans.append(np.tile(np.array([[start - 1, start]], np.int32), (len(ids[-1]), 1)))
            found = spans_of(self._processor, part, range(len(part) + 1))
            ids.append(found[0])
            spans.append(found[1] + np.int32(start))
            start += len(part) + 1
        return np.concatenate(ids), np.concatenate(spans)

    def decode(self, ids: Iterable[int]) -> str:
        return self._processor.decode([int(i) for i in ids])

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """As they are written in the vocabulary ('▁' is a space, '<0x0A>' a byte)."""
        return self._processor.id_to_piece([int(i) for i in ids])

    @functools.cached_property
    def _spelled_space(self) -> np.ndarray:
        ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]
        return np.array(ids if self._processor.unk_id() not in ids else ids[:1], np.int32)

    @functools.cached_property
    def vocab(self) -> VocabSpec:
        sp = self._processor
        ids = {piece: sp.piece_to_id(piece) for piece in CONTROL_PIECES}
        missing = [piece for piece, i in ids.items() if sp.id_to_piece(i) != piece]
        if missing:
            raise UserError(
                f"{self.path} lacks the control pieces {' '.join(missing)}; ptjax needs all of "
                f"{' '.join(CONTROL_PIECES)}: train it with `python -m experiments.prepare`"
            )
        everything = list(range(sp.get_piece_size()))
        special = np.array(sp.is_control(everything)) | np.array(sp.is_unknown(everything))
        return VocabSpec(
            size=len(everything),
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
            **marked_tables(sp.id_to_piece(everything), special, np.array(sp.is_byte(everything))),
        )

    @property
    def framing(self):
        """As documents stand in the stream that models are trained on: with the boundary, on its side."""
        boundary = (self.vocab.boundary_id,)
        return ((), boundary) if self.boundary_side == "end" else (boundary, ())

    @functools.cached_property
    def pair_template(self):
        """As `transforms.SentencePairs` writes them for pre-training."""
        cls, sep = self.vocab.cls_id, self.vocab.sep_id
        return (cls, 0), ("a", 0), (sep, 0), ("b", 1), (sep, 1)

    def files(self) -> dict[str, bytes]:
        return {MODEL: self._model}

    def export(self, folder: str | os.PathLike, *, added: bool = False) -> list[str]:
        """The model, and where it can be said in that format a tokenizer.json (see `export.of_sentencepiece`)."""
        vocab = self.vocab
        roles = {role: getattr(vocab, f"{role}_id") for role in ROLES}
        pieces = dict(zip(roles, self.pieces(roles.values())))
        begin = pieces["bos"] if self.boundary_side == "begin" else None
        files = self.files()
        if (data := export.of_sentencepiece(self._model, begin)) is not None:
            files["tokenizer.json"] = data
            files[export.TOKENIZER_CONFIG] = export.tokenizer_config("PreTrainedTokenizerFast", pieces)
        return write_files(folder, files)


def processor(path: str | os.PathLike, model: bytes):
    """SentencePiece's reader of a serialized model. Raises UserError where it is none."""
    import sentencepiece

    reader = sentencepiece.SentencePieceProcessor()
    try:
        reader.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise UserError(f"{path} is not a SentencePiece model, or is damaged: {error}") from error
    return reader


def spans_of(reader, text: str, places: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """SentencePiece's ids int32[n] of a text and their spans int32[n, 2]. places: of its characters in the original, as
    `spans.Aligned` has them.

    Its own offsets give a character's span to the last of several pieces that share it, and empty ones to the others.
    """
    proto = reader.encode(text, return_type="proto")
    normalised, origins = reader.Normalize(text, with_offsets=True)
    stretches, at, left = [], 0, 0  # left: bytes that are to come of a character spelled in bytes
    for piece in proto.pieces:
        if reader.is_byte(piece.id):
            left = left or len(normalised[at].encode())
            stretches.append((at, at + 1))
            left -= 1
            at += not left
            continue
        stop = at + len(piece.piece)
        inner = [k for k in range(at, stop) if normalised[k] != SPACE]  # merged spaces may have anything between them
        stretches.append((inner[0], inner[-1] + 1) if inner else (at, stop))
        at = stop
    ids = np.array([piece.id for piece in proto.pieces], np.int32)
    return ids, normalised_spans(stretches, [places[origin] for origin in origins])


def marked_tables(pieces: Sequence[str], special: np.ndarray, byte: np.ndarray) -> dict[str, np.ndarray]:
    """`text_tables` of pieces that write a space as '▁' (or ' ') and a byte as '<0x0A>'. special, byte: bool[size]."""
    texts = [chr(int(piece[3:5], 16)) if byte[i] else piece.replace(SPACE, " ") for i, piece in enumerate(pieces)]
    sizes = np.where(byte, 1, [len(text.encode()) for text in texts])
    return text_tables(texts, special, byte, ~byte & np.array([text.startswith(" ") for text in texts]), sizes)
