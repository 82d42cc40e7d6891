"""Which ids of a published tokenizer play which role, found out from the files that come with it."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptjax.config import UserError
from ptjax.data.tokenizers.vocab import Side

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")  # in the order in which transformers adds what is missing
ROLES_FILE = "tokenizer_roles.json"
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")  # kept, for who exports
_MOST = 1 << 24  # ids of a vocabulary that is believed
# What roles are called where the files do not say it.
_USUAL = {
    "pad": ("<pad>", "[PAD]"),
    "unk": ("<unk>", "[UNK]"),
    "bos": ("<s>", "<bos>", "[BOS]", "<|begin_of_text|>"),
    "eos": ("</s>", "<eos>", "[EOS]", "<|end_of_text|>", "<|endoftext|>"),
    "cls": ("[CLS]", "<cls>"),
    "sep": ("[SEP]", "<sep>"),
    "mask": ("[MASK]", "<mask>"),
}


@dataclasses.dataclass(frozen=True)
class Roles:
    """ids: of each role. special: ids that are no text, names: what their pieces are called, where there is one.
    rows: of the published table. size: ids in all, some behind the table. sides: of a document, on which a
    boundary can stand. named: roles that have a piece of their own there; another one's piece stands for the others.
    before, behind: ids that frame a text that stands alone. file: name of the tokenizer's own.
    family: of a SentencePiece model. lower: whether that family lower-cases here.
    """

    ids: dict[str, int]
    names: dict[int, str]
    special: tuple[int, ...]
    rows: int
    size: int
    sides: tuple[Side, ...]
    named: tuple[str, ...]
    before: tuple[int, ...] = ()
    behind: tuple[int, ...] = ()
    file: str = ""
    family: str = ""
    lower: bool = False

    def pieces_from(self, first: int) -> dict[int, str]:
        """id -> name of each id from `first` on, which are all special; made up where an id has none."""
        return {i: self.names.get(i, f"<unused_{i}>") for i in range(first, self.size)}

    def fingerprint(self) -> bytes:
        """Of what decides about ids and their meaning."""
        names = ("ids", "special", "rows", "size", "family", "lower")
        return json.dumps({name: getattr(self, name) for name in names}, sort_keys=True).encode()

    def to_json(self) -> bytes:
        return (json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, path: Path) -> "Roles":
        try:
            fields = json.loads(path.read_text())
            fields["names"] = {int(i): name for i, name in fields["names"].items()}
            tuples = {name: tuple(fields[name]) for name in ("special", "sides", "named", "before", "behind")}
            roles = cls(**fields | tuples)
            wrong = roles._wrong()
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            wrong = repr(error)
        if wrong:
            raise UserError(f"{path} is damaged ({wrong}): restore it, or import the tokenizer again")
        return roles

    def _wrong(self) -> str:
        """What is not as `find_roles` would have it, or ""."""
        if type(self.size) is not int or not 0 < self.size <= _MOST:
            return f"size is {self.size!r:.50}, where a number of ids up to {_MOST} is wanted"
        if type(self.rows) is not int or not 0 < self.rows <= self.size:
            return f"rows is {self.rows!r:.50}, where a number of at most size={self.size} is wanted"
        if not isinstance(self.ids, dict) or self.ids.keys() != set(ROLES):
            return f"ids are to be of {', '.join(ROLES)}"
        numbers = {
            **{f"the id of {role}": i for role, i in self.ids.items()},
            **{
                f"{name}[{k}]": i for name in ("special", "before", "behind") for k, i in enumerate(getattr(self, name))
            },
            **{"a key of names": i for i in self.names if i not in range(self.size)},
        }
        for name, i in numbers.items():
            if type(i) is not int or not 0 <= i < self.size:
                return f"{name} is {i!r:.50}, outside the vocabulary of {self.size}"
        if not set(self.ids.values()) <= set(self.special):
            return "an id that has a role is not special"
        ordinary = {i for role, i in self.ids.items() if role not in ("pad", "mask")}
        if self.ids["mask"] in ordinary or self.ids["pad"] in ordinary | {self.ids["mask"]}:
            return "pad and mask need ids of their own"
        if not self.sides or not set(self.sides) <= {"begin", "end"} or not set(self.named) <= set(ROLES):
            return f"sides={self.sides!r:.50}, named={self.named!r:.50}"
        if not all(isinstance(name, str) for name in (*self.names.values(), self.file, self.family)):
            return "a name is no text"
        if type(self.lower) is not bool:
            return f"lower is {self.lower!r:.50}"
        if not self.file or Path(self.file).name != self.file:
            return f"file is {self.file!r:.50}, not in this folder"
        return ""

    def side(self, wanted: Side | None, path: object) -> Side:
        """`wanted`, or without one the side that there is. Raises UserError where this tokenizer has no such token."""
        if wanted is None:
            return self.sides[0]
        if wanted not in self.sides:
            other = self.sides[0]
            lacks = "begins" if wanted == "begin" else "ends"
            raise UserError(f"the tokenizer of {path} has no token that {lacks} a text: set corpus.boundary={other}")
        return wanted


@dataclasses.dataclass(frozen=True)
class Settings:
    """What stands beside a published tokenizer. files: name -> bytes of those of SETTINGS that are there."""

    folder: Path
    files: dict[str, bytes]
    tokenizer: dict[str, Any]  # tokenizer_config.json
    special: dict[str, Any]  # special_tokens_map.json
    added: dict[str, Any]  # added_tokens.json
    model: dict[str, Any]  # config.json

    @classmethod
    def read(cls, folder: Path) -> "Settings":
        files = {name: (folder / name).read_bytes() for name in SETTINGS if (folder / name).is_file()}
        parsed = {name: parse(data, folder / name) for name, data in files.items()}
        config = folder / "config.json"
        model = parse(config.read_bytes(), config) if config.is_file() else {}
        return cls(folder, files, *(parsed.get(name, {}) for name in SETTINGS), model)

    @property
    def family(self) -> str:
        """Lower-case, as 't5tokenizer' or 't5': the class of the tokenizer, else the model's type, else empty."""
        return str(self.tokenizer.get("tokenizer_class") or self.model.get("model_type") or "").lower()

    def declared(self, role: str) -> str | None:
        """The piece that the files name for a role."""
        for settings in (self.tokenizer, self.special):
            piece = settings.get(f"{role}_token")
            piece = piece.get("content") if isinstance(piece, dict) else piece
            if isinstance(piece, str):
                return piece
        return None

    def additional(self) -> list[str]:
        """Further pieces that the files call special."""
        named = []
        for settings in (self.tokenizer, self.special):
            for key in ("additional_special_tokens", "extra_special_tokens"):
                tokens = settings.get(key)
                tokens = list(tokens.values()) if isinstance(tokens, dict) else tokens
                tokens = tokens if isinstance(tokens, list) else []
                named += [token.get("content") if isinstance(token, dict) else token for token in tokens]
        return list(dict.fromkeys(piece for piece in named if isinstance(piece, str)))

    def numbered(self) -> dict[int, tuple[str, bool]]:
        """id -> (piece, whether it is special) of the pieces to which the files give an id."""
        numbers = {i: (piece, True) for piece, i in self.added.items() if isinstance(i, int) and i >= 0}
        decoder = self.tokenizer.get("added_tokens_decoder")
        for i, token in (decoder if isinstance(decoder, dict) else {}).items():
            if str(i).isdecimal() and isinstance(token, dict) and isinstance(token.get("content"), str):
                numbers[int(i)] = token["content"], bool(token.get("special", True))
        return numbers


def parse(data: bytes, path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError where it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON, or is damaged: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is not the JSON of an object")
    return value


def find_roles(
    settings: Settings, pieces: Mapping[str, int], special: set[int], defaults: Mapping[str, str] = {}
) -> Roles:
    """Roles of a tokenizer whose own file has `pieces` -> id, of which `special` are no text.

    defaults: what a family calls roles where the files do not say it, also where the tokenizer's own file has no such
    piece: they come behind it. A role that the tokenizer lacks becomes an id behind the rows of the published table.

    Raises UserError for roles that clash.
    """
    pieces, special = dict(pieces), set(special)
    taken = set(pieces.values())
    for i, (piece, is_special) in sorted(settings.numbered().items()):
        if piece not in pieces and i not in taken:
            pieces[piece] = i
            special.add(i)  # the tokenizer's own file does not read it
        elif is_special and pieces.get(piece) == i:
            special.add(i)
    declared = {role: settings.declared(role) or defaults.get(role) for role in ROLES}
    length = max(pieces.values(), default=-1) + 1
    for piece in dict.fromkeys([*declared.values(), *settings.additional()]):
        if piece is not None and piece not in pieces:
            pieces[piece] = length
            length += 1
        if piece is not None:
            special.add(pieces[piece])
    ids = {role: pieces[piece] for role, piece in declared.items() if piece is not None}
    rows = settings.model.get("vocab_size")
    rows = rows if isinstance(rows, int) and rows > 0 else length
    size = max(length, rows)
    if size > _MOST:
        raise UserError(f"{settings.folder}: a vocabulary of {size} ids; its files are damaged, or no tokenizer's")
    for role in ROLES:
        number = settings.model.get(f"{role}_token_id")
        number = number[0] if isinstance(number, list) and number else number
        if role not in ids and isinstance(number, int) and 0 <= number < length:
            ids[role] = number
        usual = [pieces[piece] for piece in _USUAL[role] if pieces.get(piece) in special]
        if role not in ids and usual:
            ids[role] = usual[0]
    named, sides = tuple(ids), _fill(ids)
    others = {ids[role] for role in ids if role not in ("pad", "mask")}
    if ids.get("mask") in others:
        clash = " and ".join(role for role in named if ids[role] == ids["mask"])
        raise UserError(f"{settings.folder}: one piece of the tokenizer is {clash} at once: it needs its own for mask")
    if "pad" in ids and ids["pad"] in others | {ids.get("mask")}:
        del ids["pad"]  # it must not stand in a text
    for role in ("eos", "pad", "mask"):
        if role not in ids:
            ids[role] = size
            pieces[_new_name(role, pieces)] = size
            size += 1
    if not sides:
        sides = ("end",)
    for role in ("unk", "bos", "cls", "sep"):
        ids.setdefault(role, ids["eos"])
    special |= set(ids.values()) | (set(range(size)) - set(pieces.values()))
    names = {i: piece for piece, i in pieces.items() if i in special}
    return Roles(ids, names, tuple(sorted(special)), rows, size, sides, named)


def _new_name(role: str, pieces: Mapping[str, int]) -> str:
    name = f"<{role}>"
    while name in pieces:
        name = f"<{name}>"
    return name


def _fill(ids: dict[str, int]) -> tuple[Side, ...]:
    """Lets roles that mark the begin of a text stand for each other, and those that mark its end; the sides that have
    one. Where there is only one side, its token marks both."""
    sides = []
    for side, pair in (("end", ("eos", "sep")), ("begin", ("bos", "cls"))):
        there = [ids[role] for role in pair if role in ids]
        if there:
            sides.append(side)
            ids |= {role: ids.get(role, there[0]) for role in pair}
    if sides:
        only = ids["eos" if "end" in sides else "bos"]
        ids |= {role: ids.get(role, only) for role in ("bos", "cls", "eos", "sep", "unk")}
    return tuple(sides)
