"""What a source of labelled examples is."""

import hashlib
from collections.abc import Iterable
from typing import Any, Literal

import chz

from ptjax.config import Config, UserError

Split = Literal["train", "validation", "test"]
Example = dict[str, Any]
"""One example. Always 'id', a str that no other example of its split has; what else, its kind says:

texts: 'text' and for pairs of sentences 'pair', str; 'label', str, or float where it is a number.
words: 'words' and 'labels', lists of str of one length.
questions: 'question', 'context', str; 'answers', a list of {'text': str, 'start': int, in characters}, empty where the
  context has no answer.
choices: 'text', str; 'choices', a list of str, any number; 'label', int, the place of the right one.
pairs: 'good' and 'bad', str; 'group', str, the phenomenon.

Hidden labels are absent: no 'label', 'labels' or 'answers'.
"""


@chz.chz
class Examples(Config):
    """Base of where examples come from. A subclass gives `available` and `load`."""

    held_out: float = chz.field(
        default=0.1, doc="share of the training examples, by a hash, that validates where there is no validation split"
    )

    @chz.validate
    def _share(self):
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is a share in (0, 1), not {self.held_out}")

    @property
    def available(self) -> tuple[Split, ...]:
        """Splits that are there by themselves; reads no examples."""
        raise NotImplementedError

    def load(self, split: Split) -> Iterable[Example]:
        """Examples of a split that is available, in their order. Raises UserError naming file and line."""
        raise NotImplementedError

    @property
    def splits(self) -> tuple[Split, ...]:
        """Those that `read` can give: validation is held out of training where it is not there by itself."""
        there = set(self.available) | ({"validation"} if "train" in self.available else set())
        return tuple(split for split in ("train", "validation", "test") if split in there)

    def read(self, split: Split) -> list[Example]:
        """All examples of a split, in their order.

        Raises:
          UserError: no such split; none in it; two examples of one id; what cannot be read.
        """
        if split not in self.splits:
            has = ", ".join(self.splits) or "none"
            raise UserError(f"{type(self).__name__} has no {split} examples; it has {has}: name their file")
        if split in self.available and (split != "train" or "validation" in self.available):
            examples = list(self.load(split))
        else:
            wanted = split == "validation"
            examples = [example for example in self.load("train") if self._is_held_out(example) == wanted]
        seen = set()
        for example in examples:
            if example["id"] in seen:
                raise UserError(f"{type(self).__name__}: two {split} examples have the id {example['id']!r}")
            seen.add(example["id"])
        if not examples:
            raise UserError(f"{type(self).__name__}: there are no {split} examples")
        return examples

    def _is_held_out(self, example: Example) -> bool:
        """By a hash of what is read, that no text may stand on both sides; of questions, of their context alone."""
        unread = {"id", "label", "labels", "answers", "group"} | ({"question"} if "context" in example else set())
        said = repr([example[key] for key in sorted(example) if key not in unread])
        digest = hashlib.blake2b(said.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self.held_out * 2**64


@chz.chz
class NoExamples(Examples):
    """None at all: of the task of a model that is kept, which answers without them."""

    @property
    def available(self):
        return ()
