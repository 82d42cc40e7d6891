"""Minimal pairs: which sentence of two does a model hold likelier? Nothing is trained."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import chz
import numpy as np

from ptjax.data.examples import Example
from ptjax.likelihood import Likelihood, Scorer
from ptjax.metrics import GroupAccuracy, PairAccuracy
from ptjax.tasks.base import Answer, Task

if TYPE_CHECKING:
    from ptjax.pretrained import Pretrained


@chz.chz
class MinimalPairs(Task):
    """BLiMP (Warstadt et al., 2020) and its like: examples of pairs, judged by the model's own likelihood of their two
    texts. A prediction is [score of the good one, score of the bad one], in nats; equal scores count half."""

    holds = ("good", "bad")  # nothing is hidden

    metric: str = chz.field(default="accuracy", doc="accuracy, or group_accuracy: the mean over groups")
    likelihood: Likelihood | None = chz.field(
        default=None,
        meta_factory=chz.factories.subclass(Likelihood),
        doc="Causal, PseudoLikelihood, Permutation or DiffusionBound; None: by what the model has learned",
    )

    too_long: Literal["error", "tie"] = chz.field(
        default="error", doc="a pair of which the model cannot read all: a mistake, or one that it cannot tell apart"
    )

    @property
    def zero_shot(self):
        return True

    def metrics(self):
        return PairAccuracy(), GroupAccuracy()

    def judge(
        self, start: "Pretrained", examples: Sequence[Example], *, fresh: bool = False, seed: int = 0
    ) -> list[Answer]:
        """An answer to each example. fresh: by the same model with random weights.

        Raises UserError: examples that are no pairs; a model that has no likelihood; texts that are too long for it.
        """
        self.check_examples(examples, labelled=True)
        scorer = Scorer.open(start, self.likelihood, fresh=fresh, seed=seed)
        texts = [example[key] for example in examples for key in ("good", "bad")]
        names = [f"task {self.name}: {key} of example {x['id']}" for x in examples for key in ("good", "bad")]
        asked = np.arange(len(texts))
        if self.too_long == "tie":
            asked = np.flatnonzero(scorer.fit(texts).reshape(-1, 2).all(axis=1).repeat(2))
        scores = np.zeros(len(texts))
        scores[asked] = scorer.scores([texts[i] for i in asked], [names[i] for i in asked])
        pairs = scores.reshape(-1, 2).tolist()
        return [{"id": example["id"], "prediction": pair} for example, pair in zip(examples, pairs, strict=True)]

    def mistake(self, example):
        for key in self.holds:
            if not isinstance(example[key], str) or not example[key].strip():
                return f"has no {key}: a pair has the texts 'good' and 'bad'"
        return super().mistake(example)

    def reference(self, example):
        return example.get("group", "")

    def check_prediction(self, prediction):
        numbers = isinstance(prediction, list) and all(type(x) in (int, float) for x in prediction)
        if not numbers or len(prediction) != 2 or not all(map(math.isfinite, prediction)):
            raise ValueError(
                f"{prediction!r}: [score of good, score of bad], two finite numbers, higher for the likelier"
            )
