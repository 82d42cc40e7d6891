"""The proof that runs are paired: their records, held against each other where their configs agree."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ptjax.checkpoint import committed, has_checkpoint
from ptjax.config import UserError, differences, to_json
from ptjax.data.tokenizers import VocabSpec
from ptjax.provenance import BATCHES, FILE, Provenance, read_batches
from ptjax.train import Experiment

# Keys of the data that, with the seed, decide the rows of each step.
ROWS = ("corpus", "length", "batch_size", "order", "window")
# Those of a model that say how it is trained or computed, and not what its parameters begin as.
LATER = ("dropout", "attention_dropout", "mlp_dropout", "embedding_dropout", "dtype", "remat", "unroll", "epsilon")


@dataclasses.dataclass(frozen=True)
class Ran:
    """A pre-training run of an arm. rate: multiple of its peak_lr. folder: its workdir. parent: the run that it goes on
    from."""

    arm: str
    rate: float
    seed: int
    experiment: Experiment
    folder: Path
    parent: "Ran | None" = None

    @property
    def name(self) -> str:
        return f"{self.arm} (rate {self.rate:g}, seed {self.seed})"


def prove(ran: Sequence[Ran], allow: Sequence[str] = ()) -> list[dict[str, Any]]:
    """What is paired among the runs that have begun, an item for each of tokenizer, data, batches, initial body,
    initial heads, code and software: {'what', 'status', 'about', 'groups': [{'arms', 'value'}], 'checked'}.

    What has to agree follows from the configs. 'equal': all arms agree. 'declared': they do not, and their configs say
    why. 'allowed': they do not, and `allow` names it. 'shown': they do not, and nothing says that they have to.

    Raises:
      UserError: values that differ though configs agree, naming arms, seeds and the first step, the first leaf or both
        values; a record that is missing, damaged or not of the whole run.
    """
    begun = [_Begun.read(run) for run in ran if (run.folder / FILE).is_file() or has_checkpoint(run.folder)]
    if not begun:
        return []
    shared = [item(begun) for item in (_tokenizer, _data, _batches, _initial_body, _initial_heads)]
    return [item for item in (*shared, _code(begun, allow), _software(begun)) if item["groups"]]


@dataclasses.dataclass(frozen=True, eq=False)
class _Begun:
    """A run with its record. stretches: (start, experiment) of what made its steps, from the first on: of each run that
    it branched from, and its own."""

    ran: Ran
    record: Provenance
    batches: list[str]
    stretches: tuple[tuple[int, Experiment], ...]

    @classmethod
    def read(cls, ran: Ran) -> "_Begun":
        """Raises UserError: no record, or not of the whole run."""
        record, batches = Provenance.read(ran.folder), read_batches(ran.folder)
        done, again = max(committed(ran.folder / "checkpoints"), default=0), f"delete {ran.folder}, and it is run again"
        if first := record.parts[0]["from_step"]:
            raise UserError(f"The record of {ran.name} begins behind step {first}: {again}")
        if len(batches) < done:
            raise UserError(f"{ran.folder / BATCHES} ends at step {len(batches)}, and step {done} is done: {again}")
        return cls(ran, record, batches, tuple(_stretches(ran)))


def _stretches(ran: Ran) -> Iterator[tuple[int, Experiment]]:
    if ran.parent is not None:
        yield from _stretches(ran.parent)
    yield ran.experiment.first_step, ran.experiment


# Evidence of a run: (place, value, what decides it). Where two runs have the same place and the same decides it, their
# values have to be equal.

Evidence = dict[_Begun, list[tuple[Hashable, str, Hashable]]]


def _tokenizer(begun: Sequence[_Begun]) -> dict[str, Any]:
    evidence = {run: [("", run.record.tokenizer, to_json(run.ran.experiment.data.corpus))] for run in begun}
    _refuse(evidence, lambda place: "have different tokenizers")
    return _item("tokenizer", "the files of its model", evidence, _keys(begun, "data.corpus"))


def _data(begun: Sequence[_Begun]) -> dict[str, Any]:
    decides = lambda data: (to_json(data.corpus), data.length)
    evidence = {run: [("", run.record.data, decides(run.ran.experiment.data))] for run in begun}
    _refuse(evidence, lambda place: "have different data, by the hashes of the prepared files")
    return _item("data", "files and rows of the training split", evidence, _keys(begun, "data.corpus", "data.length"))


def _batches(begun: Sequence[_Begun]) -> dict[str, Any]:
    def seen(run: _Begun):
        stops = [start for start, _ in run.stretches[1:]] + [len(run.batches)]
        for (start, e), stop in zip(run.stretches, stops):
            decides = tuple(str(getattr(e.data, name)) for name in ROWS)
            for step in range(start, min(stop, len(run.batches))):
                yield (e.seed, step + 1, decides), run.batches[step], None

    evidence = {run: list(seen(run)) for run in begun}
    _refuse(evidence, lambda place: f"saw different rows in step {place[1]}")
    keys = _keys(begun, *(f"data.{name}" for name in ROWS)) + _seeds(begun)
    item = _item("batches", "the rows of each step", evidence, keys)
    return item | {"checked": item["checked"] + _compared_steps(evidence)}


def _compared_steps(evidence: "Evidence") -> str:
    """Up to which step arms were held against others."""
    arms: dict[str, set[Hashable]] = {}
    for run, rows in evidence.items():
        arms.setdefault(run.ran.arm, set()).update(place for place, _, _ in rows)
    last = []
    for arm, places in arms.items():
        others = set().union(*(found for other, found in arms.items() if other != arm))
        last.append(max((step for _, step, _ in places & others), default=0))
    if not max(last):
        return ", no step of two arms"
    steps = f"{min(last):,} to " if min(last) < max(last) else ""
    return f", the first {steps}{_count(max(last), 'step')} of each with another's"


def _initial_body(begun: Sequence[_Begun]) -> dict[str, Any]:
    evidence, shapes = {}, {}
    for run in begun:
        _, first = run.stretches[0]
        leaves, begins = _leaves(run, body=True), _begins(first)
        evidence[run] = [((first.seed, "the names of its leaves"), " ".join(sorted(leaves)), begins)]
        for path, leaf in leaves.items():
            # A table has as many rows as the objective asks for.
            evidence[run].append(((first.seed, path), leaf["hash"], (begins, leaf["dtype"], *leaf["shape"])))
            shapes.setdefault(path, set()).add(tuple(leaf["shape"]))
    _refuse(evidence, lambda place: f"began with different parameters: {place[1]}")
    keys = [key for key in _keys(begun, "model", "init_from") if key.removeprefix("model.") not in LATER]
    sizes = [f"the shape of {path}" for path, found in shapes.items() if len(found) > 1]
    return _item("initial body", "every leaf before the first step", evidence, keys + sizes + _seeds(begun))


def _initial_heads(begun: Sequence[_Begun]) -> dict[str, Any]:
    """Nothing says that a head has to begin like another arm's."""
    evidence = {}
    for run in begun:
        if leaves := _leaves(run, body=False):
            seed = run.stretches[0][1].seed
            evidence[run] = [((seed, path, *leaf["shape"]), leaf["hash"], run) for path, leaf in leaves.items()]
    item = _item("initial heads", "leaves of one name and shape", evidence, ["objective", *_seeds(begun)])
    return item if item["status"] == "equal" else item | {"status": "shown"}


def _leaves(run: _Begun, body: bool) -> dict[str, dict[str, Any]]:
    return {path: leaf for path, leaf in run.record.initial.items() if path.startswith("body/") == body}


def _begins(experiment: Experiment) -> str:
    """What decides the initial parameters of the body, but for the seed."""
    model = {key: value for key, value in json.loads(to_json(experiment.model)).items() if key not in LATER}
    # Rows that `init_from` adds for ids of the objective's own are not drawn.
    extra = experiment.init_from and experiment.objective.vocabulary(VocabSpec.synthetic(1000)).size
    return json.dumps([model, experiment.init_from, extra])


def _code(begun: Sequence[_Begun], allow: Sequence[str]) -> dict[str, Any]:
    evidence = {
        run: [(name, value, None) for part in run.record.parts for name, value in part["code"].items()] for run in begun
    }
    if "code" not in allow:
        _refuse(evidence, lambda name: f"were trained by different code, that of {name}", "; or set allow=code")
    text = lambda part: ", ".join(f"{name} {value[:16]}" for name, value in part["code"].items())
    groups = _by_value(begun, text)
    status = "equal" if len(groups) == 1 else "allowed" if _clash(evidence) else "declared"
    about = {
        "equal": "the same in all runs",
        "allowed": "not the same in all runs",
        "declared": "the same in all runs, but for modules that only some of them use",
    }
    return _as_item("code", status, f"files of ptjax and of configs' own classes: {about[status]}", groups, begun)


def _software(begun: Sequence[_Begun]) -> dict[str, Any]:
    def text(part: dict[str, Any]) -> str:
        versions = ", ".join(f"{name} {part[name]}" for name in ("ptjax", "jax", "python"))
        return f"{versions}, {part['device']}, {_count(part['processes'], 'process', 'processes')}"

    groups = _by_value(begun, text)
    status = "equal" if len(groups) == 1 else "shown"
    return _as_item("software", status, "versions and devices, of which rounding depends", groups, begun)


# How evidence is weighed and shown.


class _Clash(NamedTuple):
    place: Hashable
    runs: tuple[_Begun, _Begun]
    values: tuple[str, str]


def _clash(evidence: Evidence) -> _Clash | None:
    """The first place where values differ that have to be equal."""
    seen: dict[Hashable, tuple[_Begun, str]] = {}
    for run, rows in evidence.items():
        for place, value, decides in rows:
            other, before = seen.setdefault((place, decides), (run, value))
            if value != before:
                return _Clash(place, (other, run), (before, value))
    return None


def _refuse(evidence: Evidence, what: Callable[[Hashable], str], otherwise: str = "") -> None:
    if found := _clash(evidence):
        one, other = (run.ran for run in found.runs)
        names = one.name if one == other else f"{one.name} and {other.name}"
        folders = " or ".join(dict.fromkeys(str(run.folder) for run in (one, other)))
        made = [", ".join(f"{key} {run.record.parts[-1][key]}" for key in ("device", "jax")) for run in found.runs]
        apart = f" They ran on unlike machines: {made[0]}; {made[1]}." if made[0] != made[1] else ""
        raise UserError(
            f"Not paired: {names} {what(found.place)}: {found.values[0][:32]} and {found.values[1][:32]}, though their "
            f"configs agree in what decides it.{apart} Delete the folder of the run that is not as it should be (both, "
            f"where that is not known), and the same command runs it again: {folders}{otherwise}"
        )


def _item(what: str, of: str, evidence: Evidence, keys: Sequence[str]) -> dict[str, Any]:
    """keys: why values may differ."""
    arms: dict[str, dict[Hashable, str]] = {}
    for run, rows in evidence.items():
        arms.setdefault(run.ran.arm, {}).update((place, value) for place, value, _ in rows)
    groups: list[tuple[list[str], dict[Hashable, str]]] = []
    for arm, own in arms.items():
        for names, values in groups:
            shared = own.keys() & values.keys()
            if shared and all(own[place] == values[place] for place in shared):
                names.append(arm)
                values.update(own)
                break
        else:
            groups.append(([arm], dict(own)))
    status, about = "equal", "the same in all arms"
    if len(groups) > 1:
        why = f", which differ in {', '.join(keys)}" if keys else ""
        status, about = "declared", f"not the same in all arms{why}"
    shown = [{"arms": names, "value": _digest(values)} for names, values in groups]
    return _as_item(what, status, f"{of}: {about}", shown, list(evidence))


def _as_item(what: str, status: str, about: str, groups: list[dict], begun: Sequence[_Begun]) -> dict[str, Any]:
    arms, seeds = {run.ran.arm for run in begun}, {run.ran.seed for run in begun}
    checked = f"{_count(len(arms), 'arm')} x {_count(len(seeds), 'seed')}"
    return {"what": what, "status": status, "about": about, "groups": groups, "checked": checked}


def _by_value(begun: Sequence[_Begun], text: Callable[[dict[str, Any]], str]) -> list[dict[str, Any]]:
    """Groups of arms by a text of each part of their records."""
    found: dict[str, dict[str, None]] = {}
    for run in begun:
        for part in run.record.parts:
            found.setdefault(text(part), {})[run.ran.arm] = None
    return [{"arms": list(arms), "value": value} for value, arms in found.items()]


def _keys(begun: Sequence[_Begun], *below: str) -> list[str]:
    """Keys, at or below those named, in which experiments differ from the first one."""
    _, first = begun[0].stretches[0]
    experiments = {to_json(e): e for run in begun for _, e in run.stretches}
    found = dict.fromkeys(key for e in experiments.values() for key, *_ in differences(first, e))
    return [key for key in found if any(f"{key}.".startswith(f"{name}.") for name in below)]


def _seeds(begun: Sequence[_Begun]) -> list[str]:
    """Why runs of some arms cannot be held against each other."""
    arms: dict[str, set[int]] = {}
    for run in begun:
        arms.setdefault(run.ran.arm, set()).add(run.ran.seed)
    return ["their seeds"] if any(not a & b for a in arms.values() for b in arms.values()) else []


def _digest(values: dict[Hashable, str]) -> str:
    if len(values) == 1:
        return next(iter(values.values()))
    text = json.dumps(sorted([str(place), value] for place, value in values.items()))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _count(n: int, one: str, more: str | None = None) -> str:
    return f"{n:,} {one if n == 1 else more or one + 's'}"
