"""A branch: a run that goes on from a state of another run, as if it had resumed there with a config of its own."""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from ptjax import config as config_lib
from ptjax.checkpoint import Saved, committed, differing, leaves_by_path, listed, read_config
from ptjax.config import UserError
from ptjax.data.tokenizers import Tokenizer
from ptjax.provenance import FILE, UNKNOWN, Provenance, read_batches
from ptjax.types import PyTree, TrainState
from ptjax.weights import check_tokenizer, model_notes

if TYPE_CHECKING:
    from ptjax.train import Experiment


OWN = ("step", "seed", "hyper")  # fields of the state that the new run decides: its rate may be another


def parse(branch_from: str) -> tuple[Path, int]:
    """Workdir and step. Raises ValueError."""
    match = re.fullmatch(r"(.*)@(\d+)", branch_from)
    if not match:
        raise ValueError(f"branch_from={branch_from}: written WORKDIR@STEP, for example runs/mlm@1000")
    return Path(match[1]).expanduser(), int(match[2])


@dataclasses.dataclass(frozen=True, eq=False)
class Branch:
    """A state of another run, looked at and not yet read.

    taken, fresh: paths of the leaves of the new run's state that it has, and of those that are made anew, as another
    head with zero moments. notes: where the config of the body is another.
    """

    workdir: Path
    saved: Saved
    taken: dict[str, jax.ShapeDtypeStruct]
    fresh: tuple[str, ...]
    notes: tuple[str, ...]

    @classmethod
    def open(cls, experiment: "Experiment", tokenizer: Tokenizer, abstract: TrainState) -> "Branch":
        """abstract: the new run's state, of shapes with shardings.

        Raises:
          UserError: no run there, no checkpoint of that step, or a damaged one; another tokenizer; another body.
        """
        workdir, step = parse(experiment.branch_from)
        name = f"branch_from={experiment.branch_from}"
        parent = config_lib.from_json(read_config(workdir))
        if not hasattr(parent, "objective"):
            raise UserError(f"{name}: the config.json there is of a {type(parent).__name__}, not of a run")
        if (workdir / FILE).is_file() and Provenance.read(workdir).tokenizer != tokenizer.hash:
            raise UserError(f"{name} was trained with another tokenizer than that of {experiment.data.corpus.path}")
        check_tokenizer(name, workdir, parent, tokenizer)
        kept = committed(workdir / "checkpoints")
        if step not in kept:
            there = f"only of {', '.join(map(str, kept))}" if kept else "nor of any other step"
            raise UserError(
                f"{name}: there is no checkpoint of step {step}, {there}. A run keeps those that its "
                f"checkpoint.keep_steps names, as in checkpoint.keep_steps={step}"
            )
        saved = Saved.find(workdir / "checkpoints", step)
        there, here = saved.leaves(), leaves_by_path(abstract)
        _check_body(name, there, here)
        own = set(OWN)
        if type(parent.optimizer) is not type(experiment.optimizer):
            own.add("opt_state")
        if {key for key, *_ in config_lib.differences(parent.data, experiment.data)} - {"workers", "window"}:
            own.add("memory")
        part = lambda path: path.partition("/")[0]
        found = {path: x for path, x in here.items() if path in there and part(path) not in own}
        taken = {path: x for path, x in found.items() if not differing({path: there[path]}, {path: x})}
        fresh = tuple(path for path in here if path not in taken and part(path) not in OWN)
        return cls(workdir, saved, taken, fresh, model_notes(parent.model, experiment.model))

    def read(self, shardings: PyTree) -> dict[str, jax.Array]:
        """The leaves that are taken, by path, where they are to live."""
        return self.saved.read_leaves(self.taken)

    def grown(self, source: dict[str, jax.Array], fresh: TrainState) -> TrainState:
        """The state that the new run starts from. Pure: runs under jit."""
        paths = leaves_by_path(fresh)
        leaves = paths | source | {"step": jnp.int32(self.saved.step)}
        for path in paths:  # an average that was not kept begins with the parameters
            if path.startswith("ema/") and path not in source:
                leaves[path] = jnp.copy(leaves[f"params/{path.removeprefix('ema/')}"])
        return jax.tree.unflatten(jax.tree.structure(fresh), [leaves[path] for path in paths])

    def recorded(self, own: Provenance) -> tuple[Provenance, list[str]]:
        """The record of the new run, which goes back to the other's first step, and that of its batches so far."""
        step = self.saved.step
        there = Provenance.read(self.workdir) if (self.workdir / FILE).is_file() else None
        initial = {}
        for path, leaf in own.initial.items():
            before = there and there.initial.get(path)
            initial[path] = leaf if f"params/{path}" not in self.taken else before or leaf | {"hash": UNKNOWN}
        about = {"workdir": str(self.workdir.absolute()), "step": step, "sha256": self.saved.sha256}
        begun_with, parts = (there.begun_with, there.before(step)) if there else (None, ())
        new = dataclasses.replace(own, initial=initial, branched=about, begun_with=begun_with, parts=parts)
        return new, read_batches(self.workdir, step)

    def __str__(self) -> str:
        """Where it goes on from, what is taken and what is fresh, in one line."""
        field = lambda path: path.partition("/")[0]
        taken = list(dict.fromkeys(map(field, self.taken)))
        anew = [name for name in dict.fromkeys(map(field, self.fresh)) if name not in taken]
        parameters = [path.removeprefix("params/") for path in (*self.taken, *self.fresh) if path.startswith("params/")]
        # A moment goes by the name of its parameter, and a parameter by that of its layer.
        own = lambda path: next((name for name in parameters if path.endswith(f"/{name}")), path)
        new = dict.fromkeys("/".join(own(path).split("/")[:2]) for path in self.fresh if field(path) in taken)
        words = [f"{', '.join(taken)} taken" + (f" but for {', '.join(new)}" if new else "")]
        words += [f"{', '.join(anew)} fresh"] if anew else []
        return "; ".join(
            [f"Goes on from step {self.saved.step} of {self.workdir}: {words[0]}", *words[1:], *self.notes]
        )


def _check_body(name: str, there: dict, here: dict) -> None:
    there, here = (
        {path.removeprefix("params/"): x for path, x in leaves.items() if path.startswith("params/body/")}
        for leaves in (there, here)
    )
    rows = differing(there, here)
    if not rows:
        return
    table = "body/embed/tokens"
    alone = all(row.startswith(f"{table}:") for row in rows)
    advice = (
        "\nObjectives with ids of their own ask for tables of other sizes: init_from takes such weights"
        if alone
        else ""
    )
    raise UserError(f"{name} is of another body. Leaves that differ:\n{listed(rows)}{advice}")
