"""What published tokenizers have in common, whichever library reads them."""

import functools
import hashlib
import os
import re
from collections.abc import Iterable

import numpy as np

from ptjax.data.tokenizers.base import Tokenizer
from ptjax.data.tokenizers.roles import ROLES_FILE, Roles
from ptjax.data.tokenizers.vocab import Side, VocabSpec


class ImportedTokenizer(Tokenizer):
    """A tokenizer that others trained, with the ids that its published model has.

    data: contents of its own file. roles: what the ids mean. others: files that came with it and are kept.
    boundary_side: None for the one that it has a token for. Raises UserError where it has none for the side.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        data: bytes,
        roles: Roles,
        others: dict[str, bytes],
        boundary_side: Side | None = None,
    ):
        self.path, self.boundary_side, self.roles = os.fspath(path), roles.side(boundary_side, path), roles
        self.hash = hashlib.sha256(data + roles.fingerprint()).hexdigest()
        self._data, self._others = data, others

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """As they are written in the vocabulary; '' where an id has none."""
        return [self._pieces[int(i)] for i in ids]

    @functools.cached_property
    def _pieces(self) -> list[str]:
        pieces = [""] * self.roles.size
        for i, piece in self._ordinary_pieces().items():
            pieces[i] = piece
        for i in self.roles.special:
            pieces[i] = self.roles.names.get(i, "")
        return pieces

    def _ordinary_pieces(self) -> dict[int, str]:
        """id -> piece, of all that are text at least."""
        raise NotImplementedError

    def _tables(self, pieces: list[str], special: np.ndarray) -> dict[str, np.ndarray]:
        """`vocab.text_tables` of the pieces. special: bool[size]."""
        raise NotImplementedError

    @functools.cached_property
    def vocab(self) -> VocabSpec:
        special = np.zeros(self.roles.size, bool)
        special[list(self.roles.special)] = True
        ids = self.roles.ids
        return VocabSpec(
            size=self.roles.size,
            **{f"{role}_id": i for role, i in ids.items()},
            boundary_id=ids["eos" if self.boundary_side == "end" else "bos"],
            boundary_side=self.boundary_side,
            special_ids=self.roles.special,
            **self._tables(self._pieces, special),
            added=self.roles.size - self.roles.rows,
            sentinels=self._sentinels(),
        )

    def _sentinels(self) -> tuple[int, ...]:
        """As T5 names them, in its order."""
        found = {re.fullmatch(r"<extra_id_(\d+)>", self._pieces[i]): i for i in self.roles.special}
        return tuple(i for _, i in sorted((int(match[1]), i) for match, i in found.items() if match))

    @property
    def framing(self):
        return self.roles.before, self.roles.behind

    def files(self) -> dict[str, bytes]:
        return {**self._others, ROLES_FILE: self.roles.to_json(), self.roles.file: self._data}
