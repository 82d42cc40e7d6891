"""The real step of an experiment as something to compile: abstract state and batch, on devices that are not here."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from ptjax import partition
from ptjax.check.subject import RandomStream
from ptjax.config import UserError
from ptjax.data.manifest import Manifest
from ptjax.data.prepared import Prepared
from ptjax.data.tokenizers import Imported, VocabSpec, open_tokenizer
from ptjax.learner import Learner
from ptjax.train import Experiment
from ptjax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Subject:
    """state, batch: ShapeDtypeStructs with shardings. step: what trains the first step, to be lowered for them.
    vocabulary: where its size comes from."""

    experiment: Experiment
    learner: Learner
    mesh: jax.sharding.Mesh
    state: PyTree
    batch: PyTree
    step: partition.CompiledStep
    vocabulary: str

    @classmethod
    def open(cls, experiment: Experiment, devices: Sequence[jax.Device]) -> "Subject":
        """Allocates nothing and reads no text. Raises UserError for sizes that do not fit each other or the devices."""
        if experiment.mesh.layout == "pmap":
            raise UserError("pmap compiles only for the devices that are here: plan with mesh.layout=jit")
        mesh = partition.make_mesh(experiment.mesh, devices)
        experiment.check(mesh)
        pieces, vocabulary = pieces_of(experiment)
        learner = Learner(experiment, pieces, stage=0)
        abstract, shardings = learner.shardings(mesh)
        state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
        rows = partition.batch_sharding(mesh)
        batch = {
            k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=rows) for k, v in _batch(experiment, pieces).items()
        }
        step = partition.compile_step(learner.train_step, mesh, experiment.mesh.rules, shardings, shardings)
        return cls(experiment, learner, mesh, state, batch, step, vocabulary)

    @property
    def rows(self) -> int:
        """Of a microbatch on one device."""
        return self.experiment.data.batch_size // partition.batch_shards(self.mesh) // self.experiment.accumulation


def pieces_of(experiment: Experiment) -> tuple[VocabSpec, str]:
    """The vocabulary, and where it is from: the prepared corpus, or, where there is none yet, what the config says of
    the tokenizer."""
    corpus = experiment.data.corpus
    folder = Path(corpus.path).expanduser()
    manifest = Manifest.load(folder)
    if manifest is not None and manifest.complete:
        return Prepared.open(corpus).tokenizer.vocab, f"of {folder}"
    size = getattr(corpus.tokenizer, "vocab_size", None)
    if size is not None:
        return VocabSpec.synthetic(size, corpus.boundary), f"by data.corpus.tokenizer, as {folder} is not prepared"
    if isinstance(corpus.tokenizer, Imported):
        return open_tokenizer(corpus.tokenizer.path, corpus.boundary).vocab, f"of {corpus.tokenizer.path}"
    raise UserError(
        f"how many pieces there are nobody knows before {folder} is prepared: run `python -m experiments.prepare`, or "
        "set data.corpus.tokenizer=SentencePiece data.corpus.tokenizer.vocab_size=32000"
    )


def _batch(experiment: Experiment, pieces: VocabSpec) -> dict[str, jax.ShapeDtypeStruct]:
    """Of what shapes the host's batches are: rows of random tokens go through the objective's transforms."""
    data = experiment.data
    stream = RandomStream.make(pieces, data.length, 8, document=max(data.length // 2, 2))
    batch = {"index": np.arange(2, dtype=np.int32), "tokens": stream.tokens.reshape(8, data.length)[:2]}
    for transform in experiment.objective.transforms():
        transform.check(stream)
        batch = transform(batch, stream, experiment.seed, 0)
    return {name: jax.ShapeDtypeStruct((data.batch_size, *v.shape[1:]), v.dtype) for name, v in batch.items()}
