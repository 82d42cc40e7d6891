"""What is trained for the measurement on a GPU: sizes, floating-point operations, and what every program is told."""

import argparse
import dataclasses

from benchmarks.peers.items import Item

READ_EVERY = 8  # steps of which only the last one's loss is read, as no loop on a GPU waits for each

# Products in bfloat16 a second, without sparsity, by what a device's name begins with. NVIDIA's data sheets of the
# A100, the H100 (SXM5 and PCIe) and the H200.
PEAKS = {
    "NVIDIA H200": 989.4e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989.4e12,
    "NVIDIA A100": 312e12,
}


@dataclasses.dataclass(frozen=True)
class Work(Item):
    """family: 'bert', 'gpt2' or 'modernbert'. documents: of a row, on average."""

    family: str
    documents: int = 4

    @property
    def _body(self) -> int:
        matrices = 3 if self.family == "modernbert" else 2
        return self.layers * (4 * self.width**2 + matrices * self.width * self.hidden)

    def flops(self, everywhere: bool = False) -> float:
        """Of one step, forward and backward: 6 N D + 12 width D sum of layers (keys that a query sees). That is the
        length, half of it where attention is causal, and 129 in ModernBERT's local layers; documents are not looked
        at. The head counts where a masked language model predicts, unless `everywhere`."""
        seen = self.layers * (self.length / 2 if self.kind == "causal" else self.length)
        if self.family == "modernbert":
            seen = sum(self.length if layer % 3 == 0 else min(self.length, 129) for layer in range(self.layers))
        asked = self.batch * self.masked if self.kind == "mlm" and not everywhere else self.tokens
        return 6.0 * (self._body * self.tokens + self._head * asked) + 12.0 * self.width * self.tokens * seen

    def tiny(self) -> "Work":
        """A size for any machine, by the same code."""
        small = dict(layers=2, width=64, heads=2, hidden=128, vocab=512, batch=2, length=self.length // 8)
        return dataclasses.replace(self, **small)


BASE = dict(layers=12, width=768, heads=12, hidden=3072)
LARGE = dict(layers=24, width=1024, heads=16, hidden=4096)
MODERN = dict(layers=22, width=768, heads=12, hidden=1152)
BERT = dict(kind="mlm", family="bert", vocab=30_522)
GPT2 = dict(kind="causal", family="gpt2", vocab=50_304)
WORK = {
    "gpt2-124m": Work(**GPT2, **BASE, length=1024, batch=16),
    "bert-base-512": Work(**BERT, **BASE, length=512, batch=64),
    "bert-large": Work(**BERT, **LARGE, length=512, batch=32),
    "bert-base-128": Work(**BERT, **BASE, length=128, batch=256),
    "gpt2-350m": Work(**GPT2, **LARGE, length=1024, batch=16),
    "modernbert-1024": Work(kind="mlm", family="modernbert", vocab=50_368, **MODERN, length=1024, batch=32),
    "modernbert-8192": Work(kind="mlm", family="modernbert", vocab=50_368, **MODERN, length=8192, batch=4),
}


def arguments(description: str) -> argparse.Namespace:
    """What a worker is told. work: a Work, tiny where that is asked; steps: how many a reading."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--item", choices=WORK, required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--options", type=lambda text: set(filter(None, text.split(","))), default=set())
    asked = parser.parse_args()
    work = WORK[asked.item]
    asked.work, asked.steps = (work.tiny(), 2) if asked.tiny else (work, READ_EVERY)
    return asked
