"""What stands in a prepared folder: sizes and hashes of its files, what they were made from, how far the work has come.

array_record opens a truncated shard happily, so nothing in the folder counts until the manifest says it does.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path

from ptjax.config import UserError

NAME = "manifest.json"


@dataclasses.dataclass
class Manifest:
    """Contents of manifest.json; `commit` is the only way in which files get into it.

    Attributes:
        inputs: what the folder is prepared from; another preparation must agree with it.
        files: name -> {'bytes': size, 'sha256': hex digest} of every committed file.
        progress: split -> counts after its last committed shard, from which a killed preparation goes on.
        complete: whether everything is there.
    """

    inputs: dict
    files: dict[str, dict] = dataclasses.field(default_factory=dict)
    progress: dict[str, dict] = dataclasses.field(default_factory=dict)
    complete: bool = False

    @classmethod
    def load(cls, folder: Path) -> "Manifest | None":
        """The folder's manifest, or None where there is none."""
        try:
            return cls(**json.loads((folder / NAME).read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise UserError(f"{folder / NAME} is damaged ({error}): delete {folder} and prepare it again") from None

    def commit(self, folder: Path, partial: Path | None = None) -> None:
        """Moves the finished file `X.partial` to its name X, then writes the manifest; both survive a power cut."""
        if partial is not None:
            name = partial.name.removesuffix(".partial")
            self.files[name] = {"bytes": partial.stat().st_size, "sha256": hash_file(partial)}
            _sync(partial)
            os.replace(partial, folder / name)
        draft = folder / (NAME + ".partial")
        draft.write_text(json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n")
        _sync(draft)
        os.replace(draft, folder / NAME)

    def check(self, folder: Path, hashes: bool = False, only: Collection[str] | None = None) -> None:
        """Raises UserError naming a file that is missing or has another size, or, with `hashes`, other bytes.
        only: names of files to look at; None: all."""
        for name, expected in sorted(self.files.items()):
            if only is not None and name not in only:
                continue
            path = folder / name
            if not path.is_file():
                raise UserError(f"{path} is missing: {_remedy(folder)}")
            if (size := path.stat().st_size) != expected["bytes"]:
                raise UserError(f"{path} has {size} bytes, not {expected['bytes']} as written: {_remedy(folder)}")
            if hashes and hash_file(path) != expected["sha256"]:
                raise UserError(f"{path} is damaged, its SHA-256 is not what was written: {_remedy(folder)}")

    def fingerprint(self) -> str:
        """Hash of the committed files: equal for equal tokens in equal order, from the same tokenizer."""
        # Document indexes (.npy) follow from the tokens; one that is added changes nothing.
        files = {name: entry["sha256"] for name, entry in self.files.items() if not name.endswith(".npy")}
        text = json.dumps(files, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _remedy(folder: Path) -> str:
    return f"restore it, or delete {folder} and prepare it again with `python -m experiments.prepare`"
