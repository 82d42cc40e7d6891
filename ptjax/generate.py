"""What a checkpoint can say: masks filled in, text continued."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ptjax.config import UserError
from ptjax.data.tokenizers import Tokenizer
from ptjax.data.tokenizers.imported import ImportedTokenizer
from ptjax.models.heads import new_cache
from ptjax.objectives.base import Objective, packed_input
from ptjax.train import Experiment, Run
from ptjax.types import Array, Mask, PyTree, TextInput, TrainState

MASK = "<mask>"


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. temperature 0 takes the likeliest; top_k and top_p (Holtzman et al., 2020) cut the
    distribution to the k likeliest pieces, and to the fewest that hold a share p of it.

    tokens: length of a continuation; None: 64, or as many as fit behind the prompt in a row of training."""

    tokens: int | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def check(self) -> None:
        if (
            (self.tokens is not None and self.tokens < 1)
            or self.temperature < 0
            or (self.top_k is not None and self.top_k < 1)
        ):
            raise UserError("sampling needs tokens >= 1, temperature >= 0 and top_k >= 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p is a share in (0, 1], not {self.top_p}")


@dataclasses.dataclass(frozen=True)
class Fill:
    """What stands at one mask: pieces as text, likeliest first, with probabilities."""

    pieces: list[str]
    probabilities: list[float]


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """Trained parameters, their net and their tokenizer."""

    experiment: Experiment
    net: object
    params: PyTree
    tokenizer: Tokenizer

    @classmethod
    def of_state(cls, run: Run, state: TrainState) -> "Predictor":
        return cls(run.experiment, run.learner.net, state.averaged, run.tokenizer)

    @classmethod
    def of_workdir(cls, run: Run, workdir: str | Path, step: int | None = None) -> "Predictor":
        """The last good checkpoint of a workdir, or the one of `step`."""
        return cls(run.experiment, run.learner.net, run.restore_params(workdir, step), run.tokenizer)

    def require(self, ability: str) -> tuple[Objective, object]:
        """(objective, net) that answers; raises UserError where none does."""
        objective = self.experiment.objective
        found = objective.able(self.net, ability)
        if not found:
            name, able = type(objective).__name__, " and ".join(objective.abilities())
            if not able:
                raise UserError(f"{name} teaches a model neither to fill masks nor to sample text")
            raise UserError(f"{name} does not teach a model to {ability}: this checkpoint can {able}")
        return found

    # --- masks ---

    def encode_masked(self, text: str) -> np.ndarray:
        """Ids of `text`, in which each '<mask>' stands for one piece. A space before a mask is part of that piece, as
        it is for any other word. Framed as a published model reads a text; our own read it as a part of a stream."""
        parts = text.split(MASK)
        if len(parts) == 1:
            raise UserError(f"there is no {MASK} in {text!r}: write one where a piece is to be guessed")
        ids = []
        for part in parts[:-1]:
            ids += [*self.tokenizer.encode(part.removesuffix(" ")), self.tokenizer.vocab.mask_id]
        ids += [*self.tokenizer.encode(parts[-1])]
        return self.tokenizer.frame(ids) if isinstance(self.tokenizer, ImportedTokenizer) else np.asarray(ids, np.int32)

    def fill(self, rows: Sequence[np.ndarray], top: int = 5) -> list[list[Fill]]:
        """For each row of ids, its masks in order. Rows may differ in length. No special token fills a mask."""
        objective, net = self.require("fill")
        vocab, shift = self.tokenizer.vocab, objective.shift
        if shift and vocab.boundary_side == "begin":  # a framed row may have it
            begin = np.array([vocab.bos_id], np.int32)
            rows = [row if row[0] == vocab.bos_id else np.concatenate([begin, row]).astype(np.int32) for row in rows]
        if shift and any(row[0] == vocab.mask_id for row in rows):
            raise UserError(f"this model guesses a piece from the one before it: write a word before the first {MASK}")
        longest = max(len(row) for row in rows)
        self._check_length(longest)
        tokens = np.full((len(rows), -(-longest // 32) * 32), vocab.pad_id, np.int32)[:, : self._length]
        for row, ids in zip(tokens, rows):
            row[: len(ids)] = ids
        special = tuple(vocab.special_ids)
        top = min(top, vocab.size - len(special))
        likely, ids = jax.device_get(_fill(net, vocab.size, special, self._packed(tokens), self.params, top))
        return [
            [
                Fill([self.tokenizer.decode_inside([i]) for i in ids[b, at]], likely[b, at].tolist())
                for at in np.flatnonzero(tokens[b] == vocab.mask_id) - shift
            ]
            for b in range(len(rows))
        ]

    def _packed(self, tokens: np.ndarray) -> TextInput:
        # One document a row: what the reader typed is read as a whole.
        return packed_input(jnp.asarray(tokens), jnp.zeros_like(tokens), self.tokenizer.vocab, causal=False)

    # --- text ---

    def sample(self, prompts: Sequence[np.ndarray], sampling: Sampling) -> list[np.ndarray]:
        """Continues each prompt, all at once; ids of what follows, cut at an end of text.

        From left to right with a key-value cache, or by taking masks away (`Objective.decoding`): then all of
        `sampling.tokens` come, an end of text among them never.
        """
        objective, net = self.require("sample")
        sampling.check()
        vocab, decoding = self.tokenizer.vocab, objective.decoding
        prompts = [np.concatenate([self.start, prompt]).astype(np.int32) for prompt in prompts]
        if decoding != "unmask" and not all(len(prompt) for prompt in prompts):
            raise UserError("a prompt is empty: this corpus marks only the end of a document, so give at least a word")
        longest = max(len(prompt) for prompt in prompts)
        unread = 0 if decoding == "unmask" else 1  # from left to right the last token is not read
        if sampling.tokens is None:
            room = max(self.trained_length + unread - longest, 1)
            sampling = dataclasses.replace(sampling, tokens=min(64, room))
        self._check_length(longest + sampling.tokens - unread)
        # Padding stands on the left, so that all rows write the same slot of the cache.
        tokens = np.full((len(prompts), longest), vocab.pad_id, np.int32)
        for row, prompt in zip(tokens, prompts):
            row[longest - len(prompt) :] = prompt
        settings = (sampling.tokens, sampling.temperature, sampling.top_k, sampling.top_p)
        key, pads_B = jax.random.key(sampling.seed), jnp.sum(tokens == vocab.pad_id, axis=1)
        if decoding == "unmask":
            special = tuple(vocab.special_ids)
            out = _unmask(net, vocab.size, special, vocab.mask_id, settings, self.params, tokens, pads_B, key)
        else:
            special = tuple(i for i in vocab.special_ids if i != vocab.eos_id)
            cache = new_cache(self.experiment.model, len(prompts), longest + sampling.tokens)
            prefix = decoding == "prefix"
            out = _continue(net, vocab.size, special, prefix, settings, self.params, tokens, pads_B, cache, key)
        return [row[: np.append(np.flatnonzero(row == vocab.eos_id), len(row))[0]] for row in np.asarray(out)]

    @property
    def start(self) -> tuple[int, ...]:
        """Ids before a prompt: those that the tokenizer frames a text with, else the mark of a document's begin."""
        begin = (self.tokenizer.vocab.bos_id,) if self.tokenizer.vocab.boundary_side == "begin" else ()
        return self.tokenizer.framing[0] or begin

    @property
    def trained_length(self) -> int:
        """How far back the model has learned to look; behind it positions may exist that no row had."""
        model = self.experiment.model
        return min(model.max_length, self.experiment.data.length + model.memory_length)

    @property
    def _length(self) -> int:
        return self.experiment.model.max_length

    def _check_length(self, length: int) -> None:
        if length > self._length:
            raise UserError(
                f"{length} tokens are more than the model's {self._length} positions: shorten the text or ask for "
                "fewer (--tokens)"
            )


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 5))
def _fill(net, size: int, special: tuple[int, ...], inputs: TextInput, params: PyTree, top: int) -> tuple[Array, Array]:
    logits = _without(special, net.apply({"params": params}, inputs)[..., :size])
    return jax.lax.top_k(jax.nn.softmax(logits), top)


def _without(special: tuple[int, ...], logits_V: Array) -> Array:
    """logits [..., V] without some pieces."""
    return logits_V.at[..., jnp.asarray(special)].set(-jnp.inf)


def _draw(logits_V: Array, key: Array, temperature: float, top_k: int | None, top_p: float | None) -> Array:
    """i32[...] from logits [..., V]."""
    if temperature == 0:
        return logits_V.argmax(axis=-1).astype(jnp.int32)
    logits_NV = _cut((logits_V / temperature).reshape(-1, logits_V.shape[-1]), top_k, top_p)
    return jax.random.categorical(key, logits_NV).reshape(logits_V.shape[:-1]).astype(jnp.int32)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _unmask(net, size, special, mask_id, settings, params, tokens_BP, pads_B, key) -> Array:
    """The reverse process of masked diffusion (Sahoo et al., 2024, eq. 7) in as many steps of equal length as there are
    new tokens; i32[B, new tokens]. From time t to s each mask gives way to a draw with probability (t - s) / t."""
    count, *cut = settings
    prompt = tokens_BP.shape[1]
    index_L = jnp.arange(prompt + count)
    position_BL = jnp.maximum(index_L - pads_B[:, None], 0)
    mask = Mask(valid=index_L >= pads_B[:, None])

    def step(tokens_BL, step):
        hidden = net.apply({"params": params}, TextInput(tokens_BL, position_BL, mask), method="hidden")
        logits = net.apply({"params": params}, hidden.last[:, prompt:], method="logits")[..., :size]
        when, what = jax.random.split(jax.random.fold_in(key, step))
        drawn_BC = _draw(_without(special, logits), what, *cut)
        now_BC = jax.random.uniform(when, drawn_BC.shape) * (count - step) < 1
        old_BC = tokens_BL[:, prompt:]
        new_BC = jnp.where((old_BC == mask_id) & now_BC, drawn_BC, old_BC)
        return jnp.concatenate([tokens_BL[:, :prompt], new_BC], axis=1), None

    masks_BC = jnp.full((tokens_BP.shape[0], count), mask_id, jnp.int32)
    tokens_BL, _ = jax.lax.scan(step, jnp.concatenate([tokens_BP, masks_BC], axis=1), jnp.arange(count))
    return tokens_BL[:, prompt:]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _continue(net, size, special, both_ways, settings, params, tokens_BP, pads_B, cache, key) -> Array:
    """Prefill with the prompts, which are read in both directions where asked, then one token at a time;
    i32[B, new tokens]."""
    count, *cut = settings
    slots, prompt = cache.key.shape[2], tokens_BP.shape[1]
    valid_BS = jnp.arange(slots) >= pads_B[:, None]
    prefix_BS = jnp.broadcast_to(jnp.arange(slots) < prompt, valid_BS.shape) if both_ways else None

    def read(tokens_BL, first, cache):
        """Feeds tokens that stand at slots first, first + 1, ...; logits after the last of them."""
        position_BL = jnp.maximum(first + jnp.arange(tokens_BL.shape[1]) - pads_B[:, None], 0)
        inputs = TextInput(tokens_BL, position_BL, Mask(causal=True, valid=valid_BS, prefix=prefix_BS))
        hidden = net.apply({"params": params}, inputs, cache, method="hidden")
        logits = net.apply({"params": params}, hidden.last[:, -1], method="logits")[:, :size]
        return _without(special, logits), hidden.state

    def step(carry, index):
        token_B, cache = carry
        logits, cache = read(token_B[:, None], prompt + index - 1, cache)
        token_B = _draw(logits, jax.random.fold_in(key, index), *cut)
        return (token_B, cache), token_B

    logits, cache = read(tokens_BP, 0, cache)
    first_B = _draw(logits, jax.random.fold_in(key, 0), *cut)
    _, rest = jax.lax.scan(step, (first_B, cache), jnp.arange(1, count))
    return jnp.concatenate([first_B[:, None], rest.T], axis=1)


def _cut(logits_BV: Array, top_k: int | None, top_p: float | None) -> Array:
    if top_k is not None:
        least_B1 = jax.lax.top_k(logits_BV, min(top_k, logits_BV.shape[1]))[0][:, -1:]
        logits_BV = jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)
    if top_p is not None:
        sorted_BV = -jnp.sort(-logits_BV, axis=1)
        probs_BV = jax.nn.softmax(sorted_BV)
        before_BV = jnp.cumsum(probs_BV, axis=1) - probs_BV  # mass of the likelier pieces: the first always stays
        least_B1 = jnp.min(jnp.where(before_BV < top_p, sorted_BV, jnp.inf), axis=1, keepdims=True)
        logits_BV = jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)
    return logits_BV
