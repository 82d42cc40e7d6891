"""Objectives one after another."""

import math

import chz

from ptjax.config import Config, UserError
from ptjax.models.heads import JoinedNets
from ptjax.objectives.base import Objective, Stage


@chz.chz
class Phase(Config):
    """A part of a run."""

    objective: Objective = chz.field(meta_factory=chz.factories.subclass(Objective), doc="what is learned in it")
    share: float = chz.field(default=1.0, doc="its length, relative to the other phases'")

    @chz.validate
    def _positive(self):
        if not (self.share > 0 and math.isfinite(self.share)):
            raise ValueError(f"share must be above 0, not {self.share}")


@chz.chz
class Schedule(Objective):
    """Phases over steps, such as causal and then masked language modelling (Gisserot-Boukhlef et al., 2025).

    phases.0.objective=CausalLM phases.0.share=0.7 phases.1.objective=MLM phases.1.share=0.3. The body and heads of the
    same name go on from phase to phase; a head that a phase does not have rests in it. The optimizer goes on too.
    Validation asks the question of the last phase, all along.
    """

    phases: tuple[Phase, ...] = chz.field(doc="in order: phases.0.objective=CausalLM phases.1.objective=MLM ...")

    @chz.validate
    def _whole(self):
        if not self.phases:
            raise ValueError("phases: at least one")
        if any(isinstance(phase.objective, Schedule) for phase in self.phases):
            raise ValueError("a phase cannot be a Schedule: write its phases in a row")

    @property
    def last(self) -> Objective:
        return self.phases[-1].objective

    @property
    def carries(self):
        return all(phase.objective.carries for phase in self.phases)

    def stages(self, steps):
        whole, end, stages = sum(phase.share for phase in self.phases), 0.0, []
        for phase in self.phases:
            start, end = end, end + phase.share
            first, stop = round(steps * start / whole), round(steps * end / whole)
            if first == stop:
                name = type(phase.objective).__name__
                raise UserError(f"{name} has no step of steps={steps}: more steps, or a larger share of its phase")
            stages.append(Stage(phase.objective, first, stop))
        return tuple(stages)

    def parts(self):
        return tuple(part for phase in self.phases for part in phase.objective.parts())

    def vocabulary(self, vocab):
        return max((phase.objective.vocabulary(vocab) for phase in self.phases), key=lambda vocab: vocab.size)

    def transforms(self):
        return tuple(dict.fromkeys(t for phase in self.phases for t in phase.objective.transforms()))

    def net(self, body, vocab):
        return JoinedNets(tuple(phase.objective.net(body, vocab) for phase in self.phases))

    def predicted(self, length):
        """Of the run's mean row."""
        return _weighted([(phase.share, phase.objective.predicted(length)) for phase in self.phases])

    def abilities(self):
        return self.last.abilities()

    @property
    def shift(self):
        return self.last.shift

    @property
    def decoding(self):
        return self.last.decoding

    def trivial(self, scores, unigram):
        return self.last.trivial(scores, unigram)

    def flops_per_row(self, body, length, vocab):
        """Of the run's mean row."""
        whole = sum(phase.share for phase in self.phases)
        return sum(p.share / whole * p.objective.flops_per_row(body, length, vocab) for p in self.phases)


def _weighted(parts: list[tuple[float, dict[str, float]]]) -> dict[str, float]:
    whole, result = sum(share for share, _ in parts), {}
    for share, terms in parts:
        for name, value in terms.items():
            result[name] = result.get(name, 0.0) + share / whole * value
    return result
