"""Several objectives in one run."""

import dataclasses
import math

import chz
import jax
import jax.numpy as jnp
import numpy as np

from ptjax.config import Config
from ptjax.models.heads import JoinedNets
from ptjax.objectives.base import CorruptContext, Objective
from ptjax.objectives.schedule import Schedule
from ptjax.types import Array, Batch, Losses


@chz.chz
class Part(Config):
    """One of the objectives of a mixture."""

    objective: Objective = chz.field(
        meta_factory=chz.factories.subclass(Objective), doc="what is asked of its examples"
    )
    weight: float = chz.field(default=1.0, doc="its share of the examples and of the loss, relative to the others'")

    @chz.validate
    def _positive(self):
        if not (self.weight > 0 and math.isfinite(self.weight)):
            raise ValueError(f"weight must be above 0, not {self.weight}")


@chz.chz
class Mixed(Objective):
    """Each example is asked the question of one objective, drawn from (seed, index): the same one whenever it comes.

    The loss is the sum of the parts' own mean losses, each times its share. Heads of the same name are one head. A part
    of share p runs on a fixed number of rows, p B and five standard deviations: the price of exact draws with static
    shapes, a third more rows at B = 256 and a tenth at 2048, for p = 1/2. An example beyond that number, one in
    millions, is dropped; the metric 'dropped' is their share.
    """

    mixture: tuple[Part, ...] = chz.field(doc="mixture.0.objective=MLM mixture.1.objective=CausalLM ...")

    @chz.validate
    def _whole(self):
        if not self.mixture:
            raise ValueError("mixture: at least one part")
        if any(isinstance(part.objective, (Schedule, Mixed)) for part in self.mixture):
            raise ValueError("a part is a plain objective: a Schedule may hold a Mixed, not the other way round")

    @property
    def shares(self) -> np.ndarray:
        weights = np.array([part.weight for part in self.mixture])
        return weights / weights.sum()

    @property
    def _named(self) -> list[tuple[str, Objective, float]]:
        """(name, objective, share): names are those of the classes, numbered where one comes twice."""
        names = [type(part.objective).__name__ for part in self.mixture]
        names = [n if names.count(n) == 1 else f"{n}_{names[:i].count(n)}" for i, n in enumerate(names)]
        return list(zip(names, [part.objective for part in self.mixture], self.shares.tolist()))

    def parts(self):
        return tuple(part.objective for part in self.mixture)

    def questions(self, net: JoinedNets, batch):
        named = zip(self._named, net.nets, strict=True)
        return {name: (objective, part, batch[name]) for (name, objective, _), part in named}

    def vocabulary(self, vocab):
        return max((part.objective.vocabulary(vocab) for part in self.mixture), key=lambda vocab: vocab.size)

    def transforms(self):
        return tuple(dict.fromkeys(t for part in self.mixture for t in part.objective.transforms()))

    def net(self, body, vocab):
        return JoinedNets(tuple(part.objective.net(body, vocab) for part in self.mixture))

    def assigned(self, fixed_keys_B: Array) -> Array:
        """i32[B]: which part asks each example."""
        draw_B = jax.vmap(jax.random.uniform)(fixed_keys_B)
        bounds = jnp.asarray(np.cumsum(self.shares)[:-1], jnp.float32)
        return jnp.searchsorted(bounds, draw_B, side="right").astype(jnp.int32)

    def rows(self, share: float, batch: int, parts: int) -> int:
        """How many rows of a batch a part runs on, a multiple of `parts`."""
        most = share * batch + 5 * math.sqrt(batch * share * (1 - share))
        return min(math.ceil(most / parts) * parts, batch)

    def corrupt(self, batch: Batch, context: CorruptContext) -> Batch:
        """A batch of batches, one a part under its name, and dropped: bool[B]. A part's spare rows are padding."""
        part_B = self.assigned(context.fixed_keys)
        result = {"index": batch["index"], "dropped": jnp.zeros(part_B.shape, bool)}
        for k, (name, objective, share) in enumerate(self._named):
            mine_B = part_B == k
            rows = self.rows(share, len(part_B), context.parts)
            chosen_R = jnp.argsort(~mine_B, stable=True)[:rows]
            taken_R = mine_B[chosen_R]
            taken = {key: _blank(key, x[chosen_R], taken_R, context.vocab.pad_id) for key, x in batch.items()}
            keys, fixed_keys = context.keys[chosen_R], context.fixed_keys[chosen_R]
            # Another stream than the draw of the part, which would follow from it.
            fixed_keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(fixed_keys)
            mine = CorruptContext(context.vocab, keys, fixed_keys, context.step, context.progress, context.parts)
            result[name] = objective.corrupt(taken, mine)
            result["dropped"] |= mine_B & (jnp.cumsum(mine_B) > rows)
        return result

    def weights(self, batch, vocab):
        return {
            f"{name}/{term}": weight
            for name, objective, _ in self._named
            for term, weight in objective.weights(batch[name], vocab).items()
        }

    def factor(self, term):
        name, _, own = term.partition("/")
        return next(share * objective.factor(own) for part, objective, share in self._named if part == name)

    def losses(self, net: JoinedNets, variables, batch, context) -> Losses:
        dropped_B = batch["dropped"].astype(jnp.float32)
        totals, metrics = {}, {"dropped": (dropped_B.sum(), jnp.ones_like(dropped_B).sum())}
        for k, ((name, objective, _), part) in enumerate(zip(self._named, net.nets, strict=True)):
            key = None if context.dropout is None else jax.random.fold_in(context.dropout, k)
            losses = objective.losses(part, variables, batch[name], dataclasses.replace(context, dropout=key))
            totals |= {f"{name}/{term}": total for term, total in losses.totals.items()}
            metrics |= {f"{name}/{metric}": pair for metric, pair in losses.metrics.items()}
        return Losses(totals, metrics)

    def predicted(self, length):
        return {
            f"{name}/{term}": share * value
            for name, objective, share in self._named
            for term, value in objective.predicted(length).items()
        }

    def abilities(self):
        return tuple(dict.fromkeys(ability for part in self.parts() for ability in part.abilities()))

    def able(self, net: JoinedNets, ability):
        """The first part that has it."""
        found = (part.able(own, ability) for part, own in zip(self.parts(), net.nets, strict=True))
        return next((pair for pair in found if pair), None)

    def trivial(self, scores, unigram):
        """Of the first part that has one."""
        for name, objective, _ in self._named:
            keys = {}  # its own name of a score -> the mixture's: loss/<part>/<term>, <part>/<metric>
            for key in scores:
                kind = "loss/" if key.startswith("loss/") else ""
                if key.startswith(f"{kind}{name}/"):
                    keys[kind + key.removeprefix(f"{kind}{name}/")] = key
            if found := objective.trivial({own: scores[key] for own, key in keys.items()}, unigram):
                return keys[found[0]], *found[1:]
        return None

    def flops_per_row(self, body, length, vocab):
        """Of the mean example, spare rows not counted."""
        return sum(share * objective.flops_per_row(body, length, vocab) for _, objective, share in self._named)


def _blank(name: str, x_R: Array, taken_R: Array, pad_id: int) -> Array:
    """Rows that are not taken as a row that only fills up: padding, index -1, all else 0."""
    fill = pad_id if name.endswith("tokens") else -1 if name == "index" else 0
    return jnp.where(taken_R.reshape((-1,) + (1,) * (x_R.ndim - 1)), x_R, jnp.asarray(fill, x_R.dtype))
