"""What is trained for a measurement: a model's sizes and batches of random ids. NumPy alone: every peer reads it."""

import dataclasses

import numpy as np

MASKED_SHARE = 0.15
MASK_ID = 103  # BERT's; ids up to it stand for nothing here, as the lowest ones are special to some


@dataclasses.dataclass(frozen=True)
class Item:
    """A body, its vocabulary and its batch. kind: 'mlm' is BERT's post-norm encoder, 'causal' GPT-2's decoder."""

    kind: str
    layers: int
    width: int
    heads: int
    hidden: int
    vocab: int
    length: int
    batch: int

    @classmethod
    def parse(cls, text: str) -> "Item":
        """A name of `ITEMS`, or such a name with sizes of its own: 'd:length=1024,batch=4'. ValueError says what is
        wrong."""
        name, _, changes = text.partition(":")
        if name not in ITEMS:
            raise ValueError(f"no item {name!r}: name one of {', '.join(ITEMS)}, or change one, as in d:length=1024")
        sizes = {}
        for change in filter(None, changes.split(",")):
            key, _, value = change.partition("=")
            if key not in SIZES or not value.isdigit() or not int(value):
                raise ValueError(f"cannot read {change!r} of {text!r}: SIZE=NUMBER, of {', '.join(SIZES)}")
            sizes[key] = int(value)
        item = dataclasses.replace(ITEMS[name], **sizes)
        if item.width % item.heads:
            raise ValueError(f"{text}: width={item.width} is not divisible by heads={item.heads}")
        return item

    def __str__(self) -> str:
        body = f"{self.layers} layers, width {self.width}, {self.heads} heads, hidden {self.hidden}"
        return f"{self.kind}, {body}, vocabulary {self.vocab}, {self.length} x {self.batch} tokens"

    @property
    def tokens(self) -> int:
        return self.batch * self.length

    @property
    def masked(self) -> int:
        """Positions of a row that a masked language model predicts: the same of every row."""
        return round(MASKED_SHARE * self.length)

    @property
    def parameters(self) -> int:
        """Weights of matrices and of the tied table: what an optimizer walks through, without biases and norms."""
        return self._body + self._head

    @property
    def _body(self) -> int:
        return self.layers * (4 * self.width**2 + 2 * self.width * self.hidden)

    @property
    def _head(self) -> int:
        return self.width * self.vocab + (self.width**2 if self.kind == "mlm" else 0)

    def flops(self, everywhere: bool = False) -> float:
        """Of one step, forward and backward: 6 N D + 12 layers length width D, causal attention not halved (PaLM,
        Chowdhery et al., 2022, appendix B). The head of a masked language model counts where something is predicted,
        or `everywhere`, as peers compute it."""
        attention = 12 * self.layers * self.length * self.width * self.tokens
        asked = self.batch * self.masked if self.kind == "mlm" and not everywhere else self.tokens
        return float(6 * (self._body * self.tokens + self._head * asked) + attention)


ITEMS = {
    # The four of every table: a small and a base BERT, GPT-2's smallest and one for a laptop.
    "a": Item("mlm", layers=4, width=512, heads=8, hidden=2048, vocab=30_522, length=128, batch=32),
    "b": Item("mlm", layers=12, width=768, heads=12, hidden=3072, vocab=30_522, length=128, batch=8),
    "c": Item("causal", layers=12, width=768, heads=12, hidden=3072, vocab=50_304, length=256, batch=4),
    "d": Item("causal", layers=6, width=384, heads=6, hidden=1536, vocab=8_192, length=256, batch=16),
    # Other shapes: each changes one thing of a or d.
    "a-long": Item("mlm", layers=4, width=512, heads=8, hidden=2048, vocab=30_522, length=512, batch=8),
    "a-narrow": Item("mlm", layers=4, width=256, heads=4, hidden=1024, vocab=30_522, length=128, batch=32),
    "a-words": Item("mlm", layers=4, width=512, heads=8, hidden=2048, vocab=128_000, length=128, batch=32),
    "a-single": Item("mlm", layers=4, width=512, heads=8, hidden=2048, vocab=30_522, length=128, batch=1),
    "d-long": Item("causal", layers=6, width=384, heads=6, hidden=1536, vocab=8_192, length=1024, batch=4),
    "d-narrow": Item("causal", layers=6, width=256, heads=4, hidden=1024, vocab=8_192, length=256, batch=16),
    "d-words": Item("causal", layers=6, width=384, heads=6, hidden=1536, vocab=128_000, length=256, batch=4),
    "d-single": Item("causal", layers=6, width=384, heads=6, hidden=1536, vocab=8_192, length=256, batch=1),
}
SIZES = [field.name for field in dataclasses.fields(Item) if field.name != "kind"]


def batches(item: Item, count: int = 8) -> list[dict[str, np.ndarray]]:
    """Random ids, int32, the same for everyone.

    'tokens' [B, L], the text. causal: 'labels' [B, L], what follows each. mlm: 'shown' [B, L], the text with `masked`
    positions of each row hidden, and 'labels' [B, L], -100 where nothing is asked; ptjax hides some itself, each step.
    """
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        ids = rng.integers(MASK_ID + 1, item.vocab, (item.batch, item.length + 1)).astype(np.int32)
        tokens = ids[:, :-1].copy()
        batch = {"tokens": tokens, "labels": ids[:, 1:].copy()}
        if item.kind == "mlm":
            where = np.argsort(rng.random(tokens.shape), axis=1)[:, : item.masked]
            batch |= {"shown": tokens.copy(), "labels": np.full_like(tokens, -100)}
            np.put_along_axis(batch["shown"], where, MASK_ID, 1)
            np.put_along_axis(batch["labels"], where, np.take_along_axis(tokens, where, 1), 1)
        made.append(batch)
    return made
