"""The laws that every objective and body obeys, as functions: each looks at a small `Subject` and returns a `Result`.

`check` runs them on any experiment without data; `python -m experiments.check` prints what they found.
"""

import dataclasses
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax

from ptjax.check.layouts import accumulation, mesh, pmap
from ptjax.check.leaks import answer, documents, future
from ptjax.check.learning import learns
from ptjax.check.questions import rates, replay, rows, specials
from ptjax.check.result import Result, failed
from ptjax.check.subject import Subject, Trainer, small
from ptjax.config import UserError
from ptjax.partition import make_mesh
from ptjax.train import Experiment

Law = Callable[[Subject], Result]
LAWS: dict[str, Law] = {
    "rows": rows,
    "replay": replay,
    "special tokens": specials,
    "rates": rates,
    "documents": documents,
    "future": future,
    "accumulation": accumulation,
    "mesh": mesh,
    "pmap": pmap,
    "answer": answer,
    "learns": learns,
}

__all__ = ["LAWS", "Law", "Result", "Subject", "Trainer", "check", "small"]


def check(experiment: Experiment, laws: Mapping[str, Law] = LAWS, full: bool = False) -> Iterator[Result]:
    """What each law finds, one after the other. full: the body keeps its size.

    Raises UserError for sizes and kinds that do not go together. Any other error is of the objective or the body, and
    a law that failed.
    """
    subject = Subject(small(experiment, full))
    subject.experiment.check(make_mesh(subject.experiment.mesh, jax.devices()[:1]))
    for name, law in laws.items():
        try:
            result = law(subject)
        except UserError:
            raise
        except Exception as error:
            result = failed(_told(error))
        yield dataclasses.replace(result, law=name)


def _told(error: Exception) -> str:
    """The error in a line, with the place nearest to it that is not of a library."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename]
    place = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}: " if frames else ""
    return f"{place}{type(error).__name__}: {str(error).partition(chr(10))[0]}"
