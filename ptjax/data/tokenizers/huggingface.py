"""Published tokenizers in the format of the `tokenizers` library: tokenizer.json (WordPiece, BPE, Unigram)."""

import dataclasses
import functools
import json
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np

from ptjax.config import UserError
from ptjax.data.tokenizers import export
from ptjax.data.tokenizers.base import PairTemplate, write_files
from ptjax.data.tokenizers.imported import ImportedTokenizer
from ptjax.data.tokenizers.roles import Roles, Settings, find_roles, parse
from ptjax.data.tokenizers.sentencepiece import SPACE, marked_tables
from ptjax.data.tokenizers.vocab import text_tables

TOKENIZER_JSON = "tokenizer.json"

Kind = Literal["wordpiece", "bytes", "marked"]  # how a piece says where words begin: ##, the byte alphabet, ▁


class HuggingFaceTokenizer(ImportedTokenizer):
    """What a tokenizer.json does with text, special tokens left out: text that spells one is text.

    Byte-level BPE loses nothing but what its normaliser changes. WordPiece and most Unigram tokenizers lower-case or
    merge spaces: `decode` gives that normalised text back, and `vocab.piece_bytes` counts it (for WordPiece with a
    space before each word).
    """

    def __init__(self, path: str | os.PathLike, data: bytes, roles: Roles, *rest, **others):
        super().__init__(path, data, roles, *rest, **others)
        self._tokenizer = parse(data, path)
        self._reader = read(path, _text_only(self._tokenizer, set(roles.special)))
        self._reader.encode_special_tokens = True
        for token in self._tokenizer.get("added_tokens") or []:
            if self._reader.token_to_id(token["content"]) not in (None, token["id"]):
                raise UserError(f"{path} gives {token['content']!r} the id {token['id']}, which is not the next one")

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """`encode` of each text. All Python threads that call share the library's own threads, one a core (fewer by
        the environment variable RAYON_NUM_THREADS)."""
        encodings = self._reader.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def _spans(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        encoding = self._reader.encode(text, add_special_tokens=False)
        return np.array(encoding.ids, np.int32), np.array(encoding.offsets, np.int32).reshape(-1, 2)

    def decode(self, ids: Iterable[int]) -> str:
        ordinary = self.vocab.ordinary
        ids = [i for i in map(int, ids) if i < len(ordinary) and ordinary[i]]
        return self._reader.decode(ids, skip_special_tokens=False)

    @functools.cached_property
    def pair_template(self):
        """The post_processor's, where that frames a single text as this does and puts something between two."""
        model = {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}
        reader = read(self.path, json.dumps({"model": model, "post_processor": self._tokenizer.get("post_processor")}))
        single, pair = (_template(reader.encode(*texts)) for texts in (("a",), ("a", "b")))
        items = [item for item, _ in pair]
        if [item for item, _ in single] != [*self.framing[0], "a", *self.framing[1]]:
            return super().pair_template
        return super().pair_template if items.index("b") == items.index("a") + 1 else pair

    def _ordinary_pieces(self) -> dict[int, str]:
        return {i: piece for piece, i in self._reader.get_vocab(with_added_tokens=True).items()}

    def _tables(self, pieces: list[str], special: np.ndarray) -> dict[str, np.ndarray]:
        return _tables(self._tokenizer, pieces, special)

    def export(self, folder: str | os.PathLike, *, added: bool = False) -> list[str]:
        """As it was published; where tokens are `added` to it, ids that it leaves free before them get some, too."""
        files = {TOKENIZER_JSON: self._data}
        if added and self.roles.size > self.roles.rows:
            pieces = self.roles.pieces_from(max(self._ordinary_pieces()) + 1)
            files[TOKENIZER_JSON] = export.with_pieces(self._tokenizer, pieces)
            written = read(self.path, files[TOKENIZER_JSON])
            if any(written.token_to_id(piece) != i for i, piece in pieces.items()):
                raise UserError(f"{self.path}: its tokenizer.json has no room for ids behind {self.roles.rows}")
        return write_files(folder, files | export.settings("PreTrainedTokenizerFast", self.roles, self._others, added))


def read(path: str | os.PathLike, data: bytes | str):
    """The library's tokenizer. Raises UserError where `data` is none, or the library is not there."""
    tokenizers = _library(path)
    try:
        reader = tokenizers.Tokenizer.from_str(data if isinstance(data, str) else data.decode())
    except Exception as error:  # the library raises nothing more special
        raise UserError(f"{path} is no tokenizer, or is damaged: {error}") from None
    reader.no_truncation()
    reader.no_padding()
    return reader


def _library(path: str | os.PathLike):
    try:
        import tokenizers
    except ImportError:
        raise UserError(f"reading {path} needs the package tokenizers: pip install 'ptjax[hf]'") from None
    return tokenizers


def published_roles(path: str | os.PathLike, data: bytes, settings: Settings) -> Roles:
    """What the ids of a tokenizer.json mean. Raises UserError: damaged, or of a kind that ptjax does not know."""
    tokenizer = parse(data, path)
    reader = read(path, data)
    _kind(tokenizer, path)
    pieces = reader.get_vocab(with_added_tokens=True)
    special = {i for i, token in reader.get_added_tokens_decoder().items() if token.special}
    model = tokenizer["model"]
    unknown = model.get("unk_token")
    if isinstance(model.get("unk_id"), int):
        unknown = reader.id_to_token(model["unk_id"])
    roles = find_roles(settings, pieces, special, {"unk": unknown} if unknown in pieces else {})
    framed = reader.encode("a")
    text = [i for i, special in enumerate(framed.special_tokens_mask) if not special] or [0, -1]
    before, behind = framed.ids[: text[0]], framed.ids[text[-1] + 1 :]
    said = [settings.tokenizer.get(f"add_{role}_token") for role in ("bos", "eos")]
    if any(isinstance(add, bool) for add in said):  # as transformers understands it
        before, behind = [roles.ids["bos"]] * bool(said[0]), [roles.ids["eos"]] * bool(said[1])
    if any(i >= roles.size for i in (*before, *behind)):
        raise UserError(f"{path} is damaged: its post_processor has ids that it gives to no piece")
    return dataclasses.replace(roles, before=tuple(before), behind=tuple(behind), file=TOKENIZER_JSON)


def _text_only(tokenizer: dict[str, Any], special: set[int]) -> str:
    """The tokenizer.json of the same ids whose special pieces no text can give: in their names stand a space, which
    most tokenizers write otherwise before they look for pieces, and a code point that is no character."""
    model = dict(tokenizer["model"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        hidden = {piece: f"\U0010ffff {i}" for piece, i in vocabulary.items() if i in special}
        model["vocab"] = {hidden.get(piece, piece): i for piece, i in vocabulary.items()}
    else:
        hidden = {piece: f"\U0010ffff {i}" for i, (piece, _) in enumerate(vocabulary) if i in special}
        model["vocab"] = [[hidden.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("unk_token") in hidden:
        model["unk_token"] = hidden[model["unk_token"]]
    if model.get("merges"):
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [[a, b] for a, b in pairs if not {a, b, a + b} & hidden.keys()]
    # Those in the model's vocabulary are hidden; the others keep their numbers, and special ones are not looked for.
    added = [
        token | {"special": bool(token.get("special")) or token["id"] in special}
        for token in tokenizer.get("added_tokens") or []
        if token["content"] not in hidden
    ]
    changed = {"model": model, "added_tokens": added, "post_processor": None, "truncation": None, "padding": None}
    return json.dumps(tokenizer | changed)


def _template(encoding) -> PairTemplate:
    """What stands in the library's encoding of the texts 'a' and 'b'."""
    texts = {0: "a", 1: "b"}
    places = zip(encoding.sequence_ids, encoding.special_tokens_mask, encoding.ids, encoding.type_ids)
    return tuple((i if special else texts[text], kind) for text, special, i, kind in places)


def _types(part: Any) -> Iterator[str]:
    """The names of all steps of a normaliser, pre-tokenizer or decoder."""
    if isinstance(part, dict):
        yield str(part.get("type"))
        part = list(part.values())
    if isinstance(part, list):
        for step in part:
            yield from _types(step)


def _kind(tokenizer: dict[str, Any], path: str | os.PathLike = "tokenizer.json") -> Kind:
    model = tokenizer["model"]
    steps = [tokenizer.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")]
    types = [kind for step in steps for kind in _types(step)]
    if "continuing_subword_prefix" in model and "max_input_chars_per_word" in model:
        return "wordpiece"
    if "ByteLevel" in types:
        return "bytes"
    if SPACE in json.dumps(steps, ensure_ascii=False) or "ByteFallback" in types:
        return "marked"
    raise UserError(
        f"{path} is a {model.get('type')} tokenizer that ptjax does not know: it knows WordPiece, byte-level BPE, and "
        f"BPE and Unigram that write a space as {SPACE}"
    )


def _tables(tokenizer: dict[str, Any], pieces: list[str], special: np.ndarray) -> dict[str, np.ndarray]:
    """`text_tables` of the pieces."""
    kind = _kind(tokenizer)
    plain = np.zeros(len(pieces), bool)
    for token in tokenizer.get("added_tokens") or []:  # stands for itself
        plain[token["id"]] = True
    if kind == "wordpiece":
        prefix = tokenizer["model"]["continuing_subword_prefix"]
        begins = np.array([not piece.startswith(prefix) for piece in pieces])
        texts = [piece if begins[i] else piece[len(prefix) :] for i, piece in enumerate(pieces)]
        tables = text_tables(texts, special, np.zeros_like(special), begins, [len(text.encode()) for text in texts])
        spaced = begins & ~tables["ends_word"]
        return tables | {"piece_bytes": tables["piece_bytes"] + spaced}
    if kind == "marked":
        byte = np.array([bool(re.fullmatch("<0x[0-9A-F]{2}>", piece)) for piece in pieces])
        byte &= bool(tokenizer["model"].get("byte_fallback"))
        return marked_tables(pieces, special, byte)
    written = [not (plain[i] or special[i]) and _ALPHABET.keys() >= set(piece) for i, piece in enumerate(pieces)]
    raw = [bytes(_ALPHABET[c] for c in p) if is_bytes else p.encode() for p, is_bytes in zip(pieces, written)]
    texts = [data.decode(errors="replace") for data in raw]
    partial = np.array(["\ufffd" in text for text in texts])  # bytes of a character that is not whole
    begins = np.array([data.startswith(b" ") for data in raw])
    return text_tables(texts, special, partial, begins, [len(data) for data in raw])


def _byte_alphabet() -> dict[str, int]:
    """Character -> byte, as GPT-2 writes bytes: printable ones of Latin-1 as themselves, the others from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


# Files from before there was tokenizer.json.


def wordpiece(path: str | os.PathLike, vocabulary: bytes, settings: Settings) -> bytes:
    """The tokenizer.json of BERT's vocab.txt. Where no settings say it, a vocabulary without capitals lower-cases."""
    _library(path)
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    pieces = {piece: i for i, piece in enumerate(_lines(vocabulary))}
    capitals = any(piece != piece.lower() for piece in pieces if not piece.startswith("["))
    special = [piece for piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if piece in pieces]
    if "[UNK]" not in pieces:
        raise UserError(f"{path} is not BERT's: it has no piece [UNK]")
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=bool(settings.tokenizer.get("tokenize_chinese_chars", True)),
        strip_accents=settings.tokenizer.get("strip_accents"),
        lowercase=bool(settings.tokenizer.get("do_lower_case", not capitals)),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    if {"[CLS]", "[SEP]"} <= pieces.keys():
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[(piece, pieces[piece]) for piece in ("[CLS]", "[SEP]")],
        )
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in special])
    return tokenizer.to_str(pretty=True).encode()


def _lines(data: bytes) -> list[str]:
    lines = data.decode(errors="replace").replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def byte_level(path: str | os.PathLike, vocabulary: bytes, merges: bytes, settings: Settings) -> bytes:
    """The tokenizer.json of GPT-2's or RoBERTa's vocab.json and merges.txt."""
    _library(path)
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    if any(name in settings.family for name in ("qwen", "llama")):
        raise UserError(f"{path}: of {settings.family} ptjax reads tokenizer.json, and there is none beside it")
    pieces = parse(vocabulary, path)
    pairs = [tuple(line.split(" ")) for line in _lines(merges) if line and not line.startswith("#version")]
    try:
        tokenizer = Tokenizer(models.BPE(pieces, pairs))
    except Exception as error:  # the library raises nothing more special
        raise UserError(f"{path} and merges.txt are not GPT-2's, or are damaged: {error}") from None
    prefix = bool(settings.tokenizer.get("add_prefix_space", False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    special = [piece for piece in ("<s>", "<pad>", "</s>", "<unk>", "<mask>") if piece in pieces]
    if len(special) == 5:  # RoBERTa's
        sep, cls = (("</s>", pieces["</s>"]), ("<s>", pieces["<s>"]))
        tokenizer.post_processor = processors.RobertaProcessing(sep, cls, trim_offsets=True, add_prefix_space=prefix)
    else:
        special = [piece for piece in ("<|endoftext|>",) if piece in pieces]
    tokenizer.add_special_tokens(
        [AddedToken(piece, special=True, normalized=False, lstrip=piece == "<mask>") for piece in special]
    )
    return tokenizer.to_str(pretty=True).encode()
