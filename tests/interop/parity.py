"""A published model's numbers beside ours: what tests/fixtures/make_families.py froze, or made just now."""

import functools
import json
from pathlib import Path

import chz
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ptjax.data.tokenizers import VocabSpec
from ptjax.interop.huggingface import load
from ptjax.models.heads import VocabularyNet
from ptjax.models.sentence_net import SentencePairModel
from ptjax.objectives import PLM, CausalLM, SpanCorruption
from ptjax.types import Mask, PairInput, TextInput

FAMILIES = Path(__file__).parents[1] / "fixtures" / "families"
LAYOUTS = ("padded", "packed")
PADDING = 7.0  # what fills up the vocabulary's tables: so large that it shows wherever it counts


class Parity:
    """One folder, as ptjax.interop reads it, with the net in which it was pre-trained.

    Its documents are read in two layouts, "padded", one a row, and "packed", all in one: the rows of one batch.
    change: of our config, what the files do not say.
    """

    def __init__(self, folder: Path, **change):
        self.folder = folder
        self.theirs = json.loads((folder / "config.json").read_text())
        self.frozen = dict(np.load(folder / "expected.npz"))
        loaded = load(folder)
        self.config, self.family, self.rows = chz.replace(loaded.config, **change), loaded.family, loaded.rows
        self.objective = self.family.objective(frozenset(loaded.params))
        self.net = self.objective.net(self.config, VocabSpec.synthetic(self.rows))
        self.table = self.family.table(self.config)
        self.params = self._filled(loaded.params)
        self.compiled = jax.jit(jax.value_and_grad(self._loss, has_aux=True))

    def _filled(self, params):
        """The same with PADDING in all rows behind the vocabulary."""
        leaves = {path: np.array(leaf) for path, leaf in flatten_dict(params, sep="/").items()}
        for entry in self.table.entries:
            if entry.layout == "table" and entry.ours in leaves:
                leaves[entry.ours][self.rows :] = PADDING
        return unflatten_dict(leaves, sep="/")

    def expected(self, kind: str) -> dict[str, np.ndarray]:
        """By name. kind: output, cotangent or gradient."""
        start = kind + "/"
        return {name.removeprefix(start): x for name, x in self.frozen.items() if name.startswith(start)}

    def inputs(self) -> TextInput | PairInput:
        """[B + 1, N]: the B documents, padded to N, the length of all together, and then these in one row."""
        target = self._text("", isinstance(self.objective, (CausalLM, SpanCorruption)))
        return PairInput(self._text("source_", False), target) if "source_tokens" in self.frozen else target

    def _text(self, prefix: str, causal: bool) -> TextInput:
        valid = self.frozen[f"{prefix}valid"]
        segments, positions = np.indices(valid.shape)
        rows = {"tokens": self.frozen[f"{prefix}tokens"], "segments": segments, "positions": positions, "valid": valid}
        if "types" in self.frozen and not prefix:
            rows["types"] = self.frozen["types"]
        padding = [(0, 0), (0, valid.sum() - valid.shape[1])]
        rows = {name: np.concatenate([np.pad(x, padding), x[valid][None]]) for name, x in rows.items()}
        rows = {name: jnp.asarray(x, bool if name == "valid" else jnp.int32) for name, x in rows.items()}
        mask = Mask(causal, valid=rows["valid"], segments=rows["segments"])
        # XLNet is asked for every token of the row.
        everywhere = np.broadcast_to(np.arange(valid.sum()), rows["tokens"].shape)
        targets = jnp.asarray(everywhere) if isinstance(self.objective, PLM) else None
        return TextInput(rows["tokens"], rows["positions"], mask, rows.get("types"), targets)

    def _loss(self, params, shares):
        """The loss of each layout times its share of `shares`, and layout -> output -> values."""
        variables, valid = {"params": params}, self.frozen["valid"]
        hidden = self.net.apply(variables, self.inputs(), method="hidden")
        h_BLD = hidden.last if hidden.queries is None else hidden.queries
        # Each document in a row of its own, as heads of a whole row need it.
        apart = np.maximum(valid.cumsum().reshape(valid.shape) - 1, 0)
        h_BLD = jnp.concatenate([h_BLD[:-1, : valid.shape[1]], h_BLD[-1][apart]])
        total, outputs = 0.0, {layout: {} for layout in LAYOUTS}
        for name, cotangent in self.expected("cotangent").items():
            values = jnp.split(self.net.apply(variables, h_BLD, method=OUTPUTS[name]), len(LAYOUTS))
            for layout, share, value in zip(LAYOUTS, shares, values):
                value = value if name == "answer" else value[valid]
                value = value[..., : self.rows] if value.ndim == 2 and name == "logits" else value
                outputs[layout][name] = value
                total += share * jnp.sum(value * cotangent)
        return total, outputs

    def check_outputs(self, layout: str, params=None) -> None:
        """Raises AssertionError where ours are off by more than 1e-4, absolute or relative."""
        (_, outputs), _ = self.compiled(self.params if params is None else params, np.ones(2, np.float32))
        ours, theirs = outputs[layout], self.expected("output")
        assert ours.keys() == theirs.keys()
        for name, expected in theirs.items():
            assert expected.std() > 0.1  # there is something to compare
            np.testing.assert_allclose(ours[name], expected, rtol=1e-4, atol=1e-4, err_msg=name)

    def gradients(self, layout: str) -> dict[str, np.ndarray]:
        """Ours of the loss, by the published names."""
        _, gradients = self.compiled(self.params, np.array([layout == one for one in LAYOUTS], np.float32))
        return self.published(gradients)

    def published(self, gradients) -> dict[str, np.ndarray]:
        """A tree like params, by the published names. Raises AssertionError where padding is not zero."""
        leaves, parts = flatten_dict(jax.tree.map(np.asarray, gradients), sep="/"), {}
        for entry in self.table.entries:
            leaf = leaves.get(entry.ours)  # None of parts that the files lack
            if leaf is not None and entry.layout == "table":
                np.testing.assert_array_equal(leaf[self.rows :], 0, err_msg=f"{entry.ours}: padding counts")
            for index, name in entry.tensors() if leaf is not None else ():
                parts.setdefault(name, []).append((entry.part, entry, entry.theirs_of(leaf[index], self.rows)))
        ordered = {name: sorted(found, key=lambda part: part[0]) for name, found in parts.items()}
        return {name: found[0][1].join([x for *_, x in found]) for name, found in ordered.items()}

    def check_gradients(self, layout: str) -> None:
        """Raises AssertionError where one is off by more than 1e-3 of the largest of its tensor."""
        ours, theirs = self.gradients(layout), self.expected("gradient")
        assert ours.keys() == theirs.keys()
        largest = max(np.abs(gradient).max() for gradient in theirs.values())
        for name, expected in theirs.items():
            # A key's bias has no gradient but rounding: it moves all scores of a query alike.
            within = 1e-3 * np.abs(expected).max() + 1e-6 * largest
            np.testing.assert_allclose(ours[name], expected, rtol=0, atol=within, err_msg=name)


def _logits(net, h_BLD):
    if isinstance(net, VocabularyNet):
        return net.logits(h_BLD)
    return net.discriminator_head(h_BLD)


def _answer(net: SentencePairModel, h_BLD):
    return net.answer(h_BLD)


def _hidden(net, h_BLD):
    return h_BLD


OUTPUTS = {"logits": _logits, "answer": _answer, "hidden": _hidden}


@functools.cache
def frozen(name: str, **change) -> Parity:
    """That of a fixture, compiled once a process."""
    return Parity(FAMILIES / name, **change)
