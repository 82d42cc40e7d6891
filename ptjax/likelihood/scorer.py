"""A checkpoint that scores texts."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ptjax.config import UserError
from ptjax.data.sizes import power_of_two
from ptjax.data.tokenizers import Tokenizer, VocabSpec
from ptjax.likelihood.base import Ids, Likelihood, Question, Text
from ptjax.likelihood.default import likelihood_of, part_of
from ptjax.models.base import TextModelConfig
from ptjax.models.heads import init, shapes
from ptjax.objectives import Objective
from ptjax.objectives.cross_entropy import cross_entropy
from ptjax.types import Array, Mask, PairInput, PyTree, TextInput

if TYPE_CHECKING:
    from ptjax.pretrained import Pretrained

_TOKENS = 4096  # of a batch, padding included
_LOGITS = 2**25  # of a batch, at most


@dataclasses.dataclass(frozen=True, eq=False)
class Scorer:
    """objective: who answers, with `net` and `params` of its own head. vocab: the one that the net was built for.
    framing: ids before and behind a text."""

    likelihood: Likelihood
    objective: Objective
    model: TextModelConfig
    net: object
    params: PyTree
    tokenizer: Tokenizer
    vocab: VocabSpec
    framing: tuple[Ids, Ids]

    @classmethod
    def open(
        cls, pretrained: "Pretrained", likelihood: Likelihood | None = None, *, fresh: bool = False, seed: int = 0
    ) -> "Scorer":
        """Reads the weights that answer.

        likelihood: None for the one of what was learned. fresh: random weights in their place, by `seed`.

        Raises UserError: it has learned nothing that gives a likelihood, or has no head for it.
        """
        learned, model, tokenizer = pretrained.objective, pretrained.model, pretrained.tokenizer
        if learned is None:
            raise UserError(f"{pretrained.folder} does not say what its model has learned: it has no likelihood")
        try:
            likelihood = likelihood or likelihood_of(learned)
            objective = part_of(learned, likelihood)
        except UserError as error:
            raise UserError(f"{pretrained.folder}: {error}") from None
        vocab = learned.vocabulary(tokenizer.vocab)
        net = objective.net(model, vocab)
        if fresh:
            params = jax.jit(lambda seed: init(net, jax.random.key(seed), 8))(np.uint32(seed))
        else:
            params = _read(pretrained, net, vocab)
        framing = likelihood.framing(tokenizer, published=pretrained.source.step is None)
        return cls(likelihood, objective, model, net, params, tokenizer, vocab, framing)

    def scores(self, texts: Sequence[str], names: Sequence[str] | None = None) -> np.ndarray:
        """f64[N]: the log-likelihood of each text, in nats, as `likelihood` defines it.

        Equal texts get equal scores to the last bit, and the order of texts makes no difference; other texts beside it
        change a score by rounding at most. names: what errors call the texts. Raises UserError for a text without
        tokens, or longer than the model reads.
        """
        framed = self._framed(texts)
        for text, name in zip(framed, names if names is not None else map(repr, texts), strict=True):
            self._check(text, name)
        # Each text once, in an order of its own.
        unique = {text.tokens.tobytes(): text for text in framed}
        keys = sorted(unique, key=lambda key: (len(key), key))
        found = dict(zip(keys, self._sums([unique[key] for key in keys])))
        return np.array([found[text.tokens.tobytes()] for text in framed], np.float64)

    def fit(self, texts: Sequence[str]) -> np.ndarray:
        """bool[N]: whether the model can read the whole text."""
        return np.array([len(text.tokens) <= self._longest for text in self._framed(texts)], bool)

    @property
    def _longest(self) -> int:
        return self.model.max_length - self.likelihood.room(self.objective)

    def _framed(self, texts: Sequence[str]) -> list[Text]:
        before, behind = self.framing
        frame = lambda ids: np.concatenate([before, ids, behind]).astype(np.int32)
        rows = self.tokenizer.encode_batch(list(texts))
        return [Text(frame(ids), len(before), len(before) + len(ids)) for ids in rows]

    def _check(self, text: Text, name: str) -> None:
        if text.begin == text.end:
            raise UserError(f"{name} has no tokens: there is nothing to score")
        if len(text.tokens) > self._longest:
            raise UserError(f"{name} has {len(text.tokens)} tokens, and the model reads at most {self._longest}")

    def _sums(self, texts: list[Text]) -> np.ndarray:
        """f64[N] of texts that rise in length."""
        result = np.zeros(len(texts))
        for length, rows, chunk in self._chunks(texts):
            owners = np.concatenate([np.full(len(q.labels), i) for i, q in chunk])
            weights = np.concatenate([np.full(len(q.labels), q.weight) for _, q in chunk])
            logs = self._log_probs([q for _, q in chunk], length, rows)
            result += np.bincount(owners, weights * logs, minlength=len(texts))
        return result

    def _chunks(self, texts: list[Text]) -> Iterator[tuple[int, int, list[tuple[int, Question]]]]:
        """(tokens of a row, rows, questions with the place of their text): batches of few shapes."""
        room = self.likelihood.room(self.objective)
        length_of = lambda i: min(_row_length(len(texts[i].tokens) + room), self.model.max_length)
        for length, group in itertools.groupby(range(len(texts)), length_of):
            asked = ((i, q) for i in group for q in self.likelihood.questions(texts[i], self.objective, self.vocab))
            logits = self.model.padded_vocab(self.vocab.size) * (1 if self.likelihood.single else length)
            most = max(min(_TOKENS // length, _LOGITS // logits), 1)
            whole = False
            while chunk := list(itertools.islice(asked, most)):
                whole |= len(chunk) == most
                yield length, most if whole else power_of_two(len(chunk)), chunk

    def _log_probs(self, questions: list[Question], length: int, rows: int) -> np.ndarray:
        """f64[labels], question after question."""
        tokens, sizes = np.full((rows, length), self.tokenizer.vocab.pad_id, np.int32), np.ones(rows, np.int32)
        permuted = questions[0].order is not None
        width = 1 if self.likelihood.single else length
        order, targets = np.zeros((rows, length), np.int32), np.zeros((rows, width), np.int32)
        count = sum(len(q.labels) for q in questions)
        row, at, labels = np.zeros((3, min(power_of_two(count, rows), rows * width)), np.int32)
        start = 0
        for r, q in enumerate(questions):
            tokens[r, : len(q.tokens)], sizes[r] = q.tokens, len(q.tokens)
            here, start = slice(start, start + len(q.labels)), start + len(q.labels)
            row[here], at[here], labels[here] = r, q.at, q.labels
            if permuted:  # queries are counted among themselves
                order[r, : len(q.order)], targets[r, : len(q.at)], at[here] = q.order, q.at, np.arange(len(q.at))
        impossible = self.vocab.mask_id if self.objective.decoding == "unmask" else None
        static = (self.net, self.likelihood.causal, self.vocab.size, impossible)
        streams = (order, targets) if permuted else None
        decoder = questions[0].decoder  # one for all of a likelihood
        if decoder is not None:  # a body that reads both as one row has positions for both
            tokens, decoder = tokens[:, : length - len(decoder)], np.tile(decoder, (rows, 1))
        logs = _answers(*static, self.params, tokens, sizes, streams, decoder, row, at, labels)
        return np.asarray(logs, np.float64)[:count]


def _read(pretrained: "Pretrained", net, vocab: VocabSpec) -> PyTree:
    """Params of `net`, all of them from the source."""
    target, axes = shapes(net, 8)
    beginning = pretrained.source.fit(target, axes, vocab.size, pretrained.model)
    transplant = beginning.transplant
    if missing := sorted({path.partition("/")[0] for path in transplant.target.keys() - transplant.axes.keys()}):
        raise UserError(
            f"{pretrained.folder} has weights of a body without the head that scores the vocabulary "
            f"({', '.join(missing)}): it can be fine-tuned, but gives a text no likelihood"
        )
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    source = beginning.read(jax.tree.map(lambda _: here, target))
    return jax.jit(lambda source: transplant(source, target))(source)


def _row_length(count: int) -> int:
    """Tokens of a row, as compiled: a multiple of 8, and from 64 on of an eighth of the power of two above it."""
    step = max(8, 2 ** ((count - 1).bit_length() - 3))
    return -(-count // step) * step


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _answers(
    net,
    causal: bool,
    size: int,
    impossible: int | None,
    params: PyTree,
    tokens_BL: Array,
    size_B: Array,
    streams: tuple[Array, Array] | None,
    decoder_BT: Array | None,
    row_N: Array,
    at_N: Array,
    labels_N: Array,
) -> Array:
    """f32[N]: log p(label) by the state at `at` of each `row`; of queries, where there are `streams`: order [B, L] and
    targets [B, P]; of a decoder, where it reads something. impossible: an id that is no answer."""
    order_BL, targets_BP = streams or (None, None)
    mask = Mask(causal=causal, valid=jnp.arange(tokens_BL.shape[1]) < size_B[:, None], order=order_BL)
    inputs = TextInput(tokens_BL, _places(tokens_BL), mask, targets=targets_BP)
    if decoder_BT is not None:
        # Both are of one document, 0.
        target = Mask(causal=True, valid=jnp.ones_like(decoder_BT, bool), segments=jnp.zeros_like(decoder_BT))
        source = inputs.replace(mask=mask.replace(segments=jnp.zeros_like(tokens_BL)))
        inputs = PairInput(source, TextInput(decoder_BT, _places(decoder_BT), target))
    hidden = net.apply({"params": params}, inputs, method="hidden")
    h_ND = (hidden.last if streams is None else hidden.queries)[row_N, at_N]
    features_ND, table_VD, bias_V = net.apply({"params": params}, h_ND, method="scores")
    if impossible is not None:
        bias_V = jnp.zeros(table_VD.shape[0]) if bias_V is None else bias_V
        bias_V = bias_V.at[impossible].set(-1e30)
    return -cross_entropy(features_ND, table_VD, bias_V, labels_N, size=size).nll


def _places(x_BL: Array) -> Array:
    return jnp.broadcast_to(jnp.arange(x_BL.shape[1], dtype=jnp.int32), x_BL.shape)
