"""Published SentencePiece models, read by SentencePiece itself: T5, ALBERT, XLNet, DeBERTa-v2 and v3, Llama."""

import dataclasses
import functools
import json
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ptjax.config import UserError
from ptjax.data.tokenizers import export
from ptjax.data.tokenizers.base import write_files
from ptjax.data.tokenizers.imported import ImportedTokenizer
from ptjax.data.tokenizers.roles import Roles, Settings, find_roles
from ptjax.data.tokenizers.sentencepiece import marked_tables, processor, spans_of
from ptjax.data.tokenizers.spans import Aligned

MODELS = ("spiece.model", "spm.model", "tokenizer.model", "sentencepiece.bpe.model")


@dataclasses.dataclass(frozen=True)
class Family:
    """What the published tokenizer does beyond the model file, in transformers.

    transformers: name of its class. before, behind: roles that frame a text. pair: roles that frame two texts a and b,
    each with its sentence type; "" where `Tokenizer.pair_template` says it. mask: a piece that comes behind the
    model's. sentinels: T5's extra ids behind the model's pieces, the last one first. spaced: runs of white space become
    one space. plain: `` and '' become ", accents are taken off. lower: letters, unless the settings say otherwise.
    fairseq: ids are one higher than the model's, but for the first four.
    """

    transformers: str
    before: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()
    pair: str = ""
    mask: str | None = None
    sentinels: int = 0
    spaced: bool = False
    plain: bool = False
    lower: bool = False
    fairseq: bool = False


_BERT = {"before": ("cls",), "behind": ("sep",), "pair": "cls:0 a:0 sep:0 b:1 sep:1"}
_XLNET = {"behind": ("sep", "cls"), "pair": "a:0 sep:0 b:1 sep:1 cls:2"}
_ROBERTA = {"before": ("bos",), "behind": ("eos",), "pair": "bos:0 a:0 eos:0 eos:0 b:0 eos:0"}
FAMILIES = {
    "t5": Family("T5Tokenizer", behind=("eos",), sentinels=100),
    "albert": Family("AlbertTokenizer", **_BERT, plain=True, lower=True),
    "xlnet": Family("XLNetTokenizer", **_XLNET, plain=True),
    "deberta": Family("DebertaV2Tokenizer", **_BERT, mask="[MASK]", spaced=True),
    "xlmroberta": Family("XLMRobertaTokenizer", **_ROBERTA, mask="<mask>", fairseq=True),
    "llama": Family("LlamaTokenizer", before=("bos",)),
}


class PublishedSentencePiece(ImportedTokenizer):
    """A SentencePiece model that others trained, numbered as its published model.

    Text is normalised as there (most rules merge spaces; ALBERT's lower-cases), so `decode` gives the normalised text
    back, and `vocab.piece_bytes` counts it.
    """

    def __init__(self, path: str | os.PathLike, data: bytes, roles: Roles, *rest, **others):
        super().__init__(path, data, roles, *rest, **others)
        self._family, reader = FAMILIES[roles.family], processor(path, data)
        self._number = _numbers(self._family, reader.get_piece_size())  # SentencePiece's id -> the published one
        special = np.flatnonzero(np.isin(self._number, roles.special))
        self._reader = processor(path, _text_only(data, reader, special.tolist()))

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """`encode` of each text, on one core; other Python threads run meanwhile."""
        texts = [self._cleaned(text) for text in texts]
        return [self._number[ids] for ids in self._reader.encode(texts, return_type="numpy", num_threads=1)]

    def _cleaned(self, text: str) -> str:
        if self._family.spaced:
            text = unicodedata.normalize("NFC", re.sub(r"\s{2,}|[\n\r\t]", " ", text)).rstrip()
        if self._family.plain:
            text = unicodedata.normalize("NFKD", text.replace("``", '"').replace("''", '"'))
            text = "".join(c for c in text if not unicodedata.combining(c))
        return text.lower() if self.roles.lower else text

    def _aligned(self, text: str) -> Aligned:
        """`_cleaned`, slower, for who asks where its characters come from."""
        aligned = Aligned(text)
        if self._family.spaced:
            aligned.replace(r"\s{2,}|[\n\r\t]", " ")
            aligned.compose()
            aligned.rstrip()
        if self._family.plain:
            aligned.replace("``|''", '"')
            aligned.decompose()
        if self.roles.lower:
            aligned.lower()
        return aligned

    def _spans(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        aligned = self._aligned(text)
        ids, spans = spans_of(self._reader, aligned.text, aligned.places)
        return self._number[ids], spans

    def decode(self, ids: Iterable[int]) -> str:
        return self._reader.decode([self._own[i] for i in map(int, ids) if i in self._own])

    @functools.cached_property
    def pair_template(self):
        items = [item.split(":") for item in self._family.pair.split()]
        return tuple((self.roles.ids.get(name, name), int(kind)) for name, kind in items) or super().pair_template

    @functools.cached_property
    def _own(self) -> dict[int, int]:
        """id -> SentencePiece's, of those that are text."""
        special = set(self.roles.special)
        return {i: own for own, i in enumerate(self._number.tolist()) if i not in special}

    def _ordinary_pieces(self) -> dict[int, str]:
        return dict(zip(self._own, self._reader.id_to_piece(list(self._own.values()))))

    def _tables(self, pieces: list[str], special: np.ndarray) -> dict[str, np.ndarray]:
        byte = np.zeros_like(special)
        byte[list(self._own)] = self._reader.is_byte(list(self._own.values()))
        return marked_tables(pieces, special, byte)

    def export(self, folder: str | os.PathLike, *, added: bool = False) -> list[str]:
        """As it was published; where tokens are `added` to it, ids that it leaves free before them get some, too."""
        files = export.settings(self._family.transformers, self.roles, self._others, added)
        if added and self.roles.size > self.roles.rows:
            token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            pieces = self.roles.pieces_from(int(self._number.max()) + 1)
            decoder = {str(i): {"content": piece} | token for i, piece in pieces.items()}
            config = json.loads(files[export.TOKENIZER_CONFIG]) | {"added_tokens_decoder": decoder}
            files[export.TOKENIZER_CONFIG] = export.to_json(config)
        return write_files(folder, {self.roles.file: self._data} | files)


def published_roles(path: Path, data: bytes, settings: Settings) -> Roles:
    """What the ids of a published SentencePiece model mean. Raises UserError: damaged, or of no known family."""
    reader = processor(path, data)
    count = reader.get_piece_size()
    own = reader.id_to_piece(list(range(count)))
    name = _family(path, set(own), settings)
    family = FAMILIES[name]
    number = _numbers(family, count).tolist()
    pieces = {piece: number[i] for i, piece in enumerate(own)}
    special = {number[i] for i in range(count) if reader.is_control(i) or reader.is_unknown(i) or reader.is_unused(i)}
    if family.fairseq:
        pieces["<pad>"] = 1
        special.add(1)
    said = settings.tokenizer.get("extra_ids")
    sentinels = said if isinstance(said, int) and 0 <= said < 1000 else family.sentinels
    if any(piece.startswith("<extra_id_") for piece, _ in settings.numbered().values()):
        sentinels = 0  # they are numbered there
    for k in range(sentinels):
        pieces.setdefault(f"<extra_id_{k}>", count + sentinels - 1 - k)
        special.add(pieces[f"<extra_id_{k}>"])
    defaults = {"unk": own[reader.unk_id()]} | ({"mask": family.mask} if family.mask else {})
    roles = find_roles(settings, pieces, special, defaults)
    frame = {"bos": family.before, "eos": family.behind}
    for role, side in frame.items():
        said = settings.tokenizer.get(f"add_{role}_token")
        if name == "llama" and isinstance(said, bool):
            frame[role] = (role,) if said else ()
    lower = settings.tokenizer.get("do_lower_case", family.lower)
    return dataclasses.replace(
        roles,
        before=tuple(roles.ids[role] for role in frame["bos"]),
        behind=tuple(roles.ids[role] for role in frame["eos"]),
        file=path.name if path.name in MODELS else MODELS[0],
        family=name,
        lower=bool(lower),
    )


def _family(path: Path, pieces: set[str], settings: Settings) -> str:
    """By the settings' own word, else by the pieces that only this family has."""
    said = re.sub("[^a-z0-9]", "", settings.family)
    for name in FAMILIES:
        if name in said:
            return name
    if path.name == "sentencepiece.bpe.model":
        return "xlmroberta"
    signs = {"xlnet": {"<cls>", "<sep>"}, "albert": {"[CLS]", "<pad>"}, "deberta": {"[CLS]", "[PAD]"}}
    for name, sign in signs.items():
        if sign <= pieces:
            return name
    if "</s>" in pieces:
        return "llama" if "<s>" in pieces else "t5"
    raise UserError(
        f"{path} is a SentencePiece model of no family that ptjax knows ({', '.join(FAMILIES)}): name its "
        "tokenizer_class in a tokenizer_config.json beside it, or convert it to a tokenizer.json"
    )


def _numbers(family: Family, count: int) -> np.ndarray:
    """int32[count]: the published id of each of SentencePiece's ids."""
    numbers = np.arange(count, dtype=np.int32)
    if family.fairseq:  # <unk> <s> </s> there; <s> <pad> </s> <unk> here
        numbers += 1
        numbers[:3] = 3, 0, 2
    return numbers


def _text_only(data: bytes, reader, special: list[int]) -> bytes:
    """The model whose pieces `special` no text can give."""
    if all(reader.is_control(i) or reader.is_unknown(i) or reader.is_unused(i) for i in special):
        return data
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(data)
    for i in special:
        if i != reader.unk_id():
            model.pieces[i].type = model.SentencePiece.CONTROL
    return model.SerializeToString()
