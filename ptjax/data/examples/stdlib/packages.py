"""Which package a function comes from."""

import functools

import chz

from ptjax.config import UserError
from ptjax.data.examples.base import Split
from ptjax.data.examples.stdlib.functions import Function, StdlibExamples, functions, rank, source_files

SHARES: dict[Split, float] = {"train": 0.6, "validation": 0.2, "test": 0.2}  # of a package's functions


@chz.chz
class PackageExamples(StdlibExamples):
    """The text of a function, and the package of the standard library that it comes from.

    Every package has files on every side, no file is on two, so that here, unlike elsewhere, most validation and test
    files too are among those that `Stdlib` gives to pre-training: their text may have been seen, never their labels.
    Ids are hashes: a function's name would tell its package.
    """

    packages: tuple[str, ...] = chz.field(
        default=(
            "asyncio",
            "email",
            "http",
            "idlelib",
            "importlib",
            "lib2to3",
            "multiprocessing",
            "tkinter",
            "unittest",
            "urllib",
            "xml",
        ),
        doc="the labels; those that this Python does not have are left out, at least 4 have to be there",
    )

    @chz.validate
    def _different(self):
        if len(set(self.packages)) < max(4, len(self.packages)):
            raise ValueError(f"packages={self.packages}: at least 4 different names")

    def load(self, split):
        there = [name for name in sorted(self.packages) if any(by_split(name, self.longest).values())]
        if len(there) < 4:
            has = ", ".join(there) or "none"
            raise UserError(f"examples.packages: of {', '.join(self.packages)} this Python has {has}: at least 4")
        pools = {name: by_split(name, self.longest)[split] for name in there}
        size = getattr(self, split)
        most = min(-(-size // len(there)), 3 * min(len(pool) for pool in pools.values()))
        chosen = [(name, function) for name, pool in pools.items() for function in pool[:most]]
        for name, function in chosen[:size]:
            yield {"id": f"{rank(function.id):016x}", "text": function.text, "label": name}


@functools.cache
def by_split(package: str, longest: int) -> dict[Split, list[Function]]:
    """A package's functions of different texts, in the order of a hash. Files go whole, the largest first, to the side
    that lacks most of its share."""
    files = sorted((functions(file, longest) for file in source_files() if file.package == package), key=len)
    total = sum(len(found) for found in files)
    sides: dict[Split, list[Function]] = {split: [] for split in SHARES}
    seen = set()
    for found in reversed(files):
        side = max(SHARES, key=lambda split: SHARES[split] * total - len(sides[split]))
        sides[side] += [function for function in found if function.text not in seen]
        seen |= {function.text for function in found}
    return {split: sorted(found, key=lambda function: rank(function.id)) for split, found in sides.items()}
