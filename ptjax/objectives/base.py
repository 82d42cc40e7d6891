"""What an objective is: it poses a question about a batch, names its heads, and scores the answer."""

import dataclasses
import math
from typing import Any, Literal

import chz
import jax
import jax.numpy as jnp
import numpy as np

from ptjax.config import Config
from ptjax.data.tokenizers import VocabSpec
from ptjax.data.transforms import Transform
from ptjax.models.base import TextModelConfig
from ptjax.objectives.cross_entropy import TokenScores
from ptjax.types import Array, Batch, Losses, Mask, Metrics, PairInput, PyTree, TextInput


@dataclasses.dataclass(frozen=True, eq=False)
class StepContext:
    """What a loss may know of the step, and its way to the net. dropout: a random key, or None outside training."""

    vocab: VocabSpec
    dropout: Array | None = None
    _sown: list[PyTree] = dataclasses.field(default_factory=list)

    def apply(self, net, variables: PyTree, *arguments, method: str):
        """What a method of the net answers that runs its body. Heads, which know no dropout, are called by `net.apply`
        itself. What layers sow in the collection 'auxiliary' is kept for the step."""
        rngs = {} if self.dropout is None else {"dropout": self.dropout}
        train, kept = self.dropout is not None, ["auxiliary"]
        result, sown = net.apply(variables, *arguments, train=train, rngs=rngs, method=method, mutable=kept)
        self._sown.append(sown)
        return result

    def auxiliary(self) -> dict[str, Array]:
        """name -> f32[]: the mean of what was sown under it, over layers and calls; empty for a body that sows none."""
        found = {}
        for path, value in jax.tree_util.tree_leaves_with_path(self._sown):
            name = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)][-1]
            found.setdefault(name, []).append(value.reshape(-1))
        return {name: jnp.concatenate(values).mean() for name, values in found.items()}


@dataclasses.dataclass(frozen=True)
class CorruptContext:
    """What a question may depend on.

    keys: [B], a random key an example, a function of (seed, step, index). fixed_keys: [B], functions of (seed, index)
    alone, the same at every step. step: i32[]. progress: f32[] in [0, 1], the share of the objective's stage
    of the run that is done. Validation always asks the last question, step 0 and progress 1.
    """

    vocab: VocabSpec
    keys: Array
    fixed_keys: Array
    step: Array
    progress: Array
    parts: int = 1  # into how many equal parts rows are divided: microbatches times the shards of the mesh


@dataclasses.dataclass(frozen=True)
class Stage:
    """Steps `start` to `stop` - 1 of a run ask the questions of `objective`."""

    objective: "Objective"
    start: int
    stop: int


@chz.chz
class Objective(Config):
    """Base of every objective. Fields are its hyper-parameters; methods are pure.

    A new objective gives `corrupt` (where it changes the batch), `inputs`, `weights`, `net`, `losses` and `predicted`.
    """

    @property
    def needs(self) -> frozenset[str]:
        """Of what `ModelConfig.offers`, any one of which will do."""
        return frozenset({"text"})

    @property
    def carries(self) -> bool:
        """Whether it hands `batch['memory']` to the body as its state and returns what comes back in `Losses.memory`:
        what a body with segment recurrence needs."""
        return False

    def stages(self, steps: int) -> tuple[Stage, ...]:
        """Who asks when, in a run of `steps`. Each stage is compiled for itself; the last one asks in validation."""
        return (Stage(self, 0, steps),)

    def parts(self) -> tuple["Objective", ...]:
        """The objectives that it is put together from, or itself alone."""
        return (self,)

    def questions(self, net, batch: Batch) -> dict[str, tuple["Objective", Any, Batch]]:
        """Who asks what in a corrupted batch, by which net: it alone, under no name; a mixture's parts under theirs."""
        return {"": (self, net, batch)}

    def longest(self, length: int) -> int:
        """Positions that one stack reads for a row of `length` tokens: more where question and answer stand in it."""
        return length

    def vocabulary(self, vocab: VocabSpec) -> VocabSpec:
        """The vocabulary that the net is built for: the tokenizer's, extended by special ids of its own if need be."""
        return vocab

    def transforms(self) -> tuple[Transform, ...]:
        """Ragged work on the host, before the batch reaches a device."""
        return ()

    def corrupt(self, batch: Batch, context: CorruptContext) -> Batch:
        """Poses the question, without parameters. Rows must not touch each other. Adds arrays to the batch or replaces
        some; 'tokens' stays what the body is to read."""
        return batch

    def inputs(self, batch: Batch, vocab: VocabSpec) -> TextInput | PairInput:
        """What the body reads of a corrupted batch: tokens, positions, and who may attend to whom."""
        raise NotImplementedError

    def weights(self, batch: Batch, vocab: VocabSpec) -> dict[str, Array]:
        """What each term of the loss is divided by, as f32[] sums over this (corrupted) batch."""
        raise NotImplementedError

    def coefficients(self) -> dict[str, float]:
        """The factor of each term in what is minimised; 1 for a term that is not named."""
        return {}

    def factor(self, term: str) -> float:
        """The same of one term."""
        return self.coefficients().get(term, 1.0)

    def minimised(self, terms: dict[str, Array]) -> Array:
        """The loss, from the mean of each term."""
        return sum(self.factor(name) * value for name, value in terms.items())

    def net(self, body: TextModelConfig, vocab: VocabSpec):
        """The body under this objective's heads: something with `init` and `apply`."""
        raise NotImplementedError

    def learns(self, path: tuple[str, ...]) -> bool:
        """Whether the parameter at this path of the tree, ('body', 'embed', 'tokens'), changes; the others are frozen:
        no gradient, no weight decay, no memory of the optimizer."""
        return True

    def losses(self, net, variables: PyTree, batch: Batch, context: StepContext) -> Losses:
        """Each term as a sum over this microbatch's examples, with metrics."""
        raise NotImplementedError

    def predicted(self, length: int) -> dict[str, float]:
        """The expected weight of each term in a row of `length` ordinary tokens: how many predictions it asks for.
        Budgets in predicted tokens count these, and `experiments.check` holds `weights` against them."""
        raise NotImplementedError

    def visible(self) -> float:
        """At most this share of the predicted tokens stands in the input by design, where `nll` counts them: the tenth
        that BERT shows as it is. `experiments.check` lets a model guess so many random tokens, and no more."""
        return 0.0

    def projected(self, length: int) -> int:
        """Positions of a row of `length` that reach the vocabulary projection, which FLOPs count."""
        return math.ceil(sum(self.predicted(length).values()))

    def abilities(self) -> tuple[str, ...]:
        """What a model trained so can do without fine-tuning: 'fill' masks, 'sample' text."""
        return ()

    def able(self, net, ability: str) -> tuple["Objective", Any] | None:
        """Who has the ability, and by which net; a mixture hands it to one of its parts."""
        return (self, net) if ability in self.abilities() else None

    @property
    def shift(self) -> int:
        """How far to the left of a mask stands the hidden state that fills it: 0, or 1 where states predict the next
        token."""
        return 0

    @property
    def decoding(self) -> Literal["causal", "prefix", "unmask"]:
        """How text is sampled: from left to right; so, with a prompt that is read in both directions; or by taking
        masks away in random order."""
        return "causal"

    def trivial(self, scores: dict[str, float], unigram: float) -> tuple[str, str, float] | None:
        """What validation scores are to beat: (name of the score, name of the baseline, its value in the same unit).
        unigram: entropy of the split's tokens in nats, which a model that only knows their frequencies reaches."""
        return ("nll", "unigram entropy", unigram) if "nll" in scores else None

    @property
    def transforms_head(self) -> bool:
        """Whether the head that scores the vocabulary has a dense layer before the table, as BERT's does."""
        return False

    def flops_per_row(self, body: TextModelConfig, length: int, vocab: VocabSpec) -> float:
        """Matrix-product FLOPs of a forward pass over one row: the body, and the head where something is predicted."""
        transform = self.transforms_head or body.table_width != body.width
        head = 2.0 * body.table_width * (transform * body.width + body.padded_vocab(vocab.size))
        return length * body.flops_per_token(length) + self.projected(length) * head


def means(totals: dict[str, Array], weights: dict[str, Array]) -> dict[str, Array]:
    """The mean of each term; 0 where nothing was asked."""
    return {name: total / jnp.where(weights[name] > 0, weights[name], 1.0) for name, total in totals.items()}


def segments_of(tokens_BL: Array, vocab: VocabSpec) -> Array:
    """i32[B, L]: the number of each token's document in its packed row, from the boundary token."""
    boundary_BL = (tokens_BL == vocab.boundary_id).astype(jnp.int32)
    count_BL = jnp.cumsum(boundary_BL, axis=1)
    # A boundary at the end of a document still belongs to it; one at the beginning belongs to what follows.
    return count_BL - boundary_BL if vocab.boundary_side == "end" else count_BL


def positions_of(segments_BL: Array) -> Array:
    """i32[B, L]: the place of each token in its document of a packed row, from 0."""
    index_L = jnp.arange(segments_BL.shape[1], dtype=jnp.int32)
    begins_BL = jnp.concatenate(
        [jnp.ones_like(segments_BL[:, :1], bool), segments_BL[:, 1:] != segments_BL[:, :-1]], axis=1
    )
    return index_L - jax.lax.cummax(jnp.where(begins_BL, index_L, 0), axis=1)


def packed_input(
    tokens_BL: Array, segments_BL: Array, vocab: VocabSpec, *, causal: bool, prefix: Array | None = None
) -> TextInput:
    """A packed row as the body reads it: attention stays within a document and positions restart with each.
    prefix: bool[B, L], as in `Mask`."""
    mask = Mask(causal=causal, valid=tokens_BL != vocab.pad_id, segments=segments_BL, prefix=prefix)
    return TextInput(tokens_BL, positions_of(segments_BL), mask)


def token_metrics(scores: TokenScores, labels_N: Array, weights_N: Array, vocab: VocabSpec) -> Metrics:
    """Accuracy, negative log-likelihood in nats a token, and bits a byte of the predicted text.

    Bits a byte is bits of the predicted tokens over the UTF-8 bytes they stand for, so that causal models with
    different tokenizers can be compared; a masked model's question gets easier with smaller pieces.
    """
    nll, weight = jnp.sum(scores.nll * weights_N), jnp.sum(weights_N)
    size_N = jnp.asarray(vocab.piece_bytes, jnp.float32)[labels_N]
    return {
        "accuracy": (jnp.sum(scores.correct * weights_N), weight),
        "nll": (nll, weight),
        "bits_per_byte": (nll / np.log(2), jnp.sum(size_N * weights_N)),
    }
