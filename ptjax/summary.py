"""What an experiment is made of and what a step of it costs, before anything is trained."""

import dataclasses

import jax
import numpy as np

from ptjax.data.pipeline import batch_at
from ptjax.models.base import TextModelConfig
from ptjax.train import Run
from ptjax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Summary:
    """parameters: numbers by module; active: those that a token meets. flops: of a step, from the formula;
    compiled_flops: as the compiler counts them, or None where it does not. memory: bytes a device by kind. mesh: axis
    sizes."""

    parameters: dict[str, int]
    active: int
    flops: float
    compiled_flops: float | None
    memory: dict[str, int]
    mesh: dict[str, int]
    devices: str


def count(tree: PyTree) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def active(params: PyTree, config: TextModelConfig) -> int:
    """How many there are without the experts that a token does not go through."""
    experts = config.experts

    def met(path, leaf) -> int:
        of_experts = experts is not None and "experts" in [key.key for key in path]
        return count(leaf) * experts.chosen // experts.count if of_experts else count(leaf)

    return sum(met(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params))


def summarize(run: Run) -> Summary:
    """Compiles the training step for abstract arrays: no parameter is allocated and nothing is trained."""
    params = run.learner.params_shape
    parts = {f"body.{name}": count(part) for name, part in params["body"].items()}
    parts |= {name: count(part) for name, part in params.items() if name != "body"}
    parts = {name: number for name, number in parts.items() if number}
    met = active(params, run.experiment.model)
    vocab = run.learner.vocab
    mesh = dict(run.mesh.shape)
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}, {jax.process_count()} process(es)"
    flops = run.experiment.flops_per_step(vocab)
    if run.train_step(0).lower is None:  # pmap: what each device holds is known without the compiler
        return Summary(parts, met, flops, None, {"state": _bytes(run.abstract)}, mesh, devices)
    batch = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch_at(run.pipeline, 0).items()}
    compiled = run.train_step(0).lower(run.abstract, batch).compile()
    analysis = compiled.memory_analysis()
    memory = {
        "state": analysis.argument_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "outputs beyond the state": analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        "code": analysis.generated_code_size_in_bytes,
    }
    costs = compiled.cost_analysis() or {}
    per_device = costs.get("flops")
    return Summary(
        parts,
        met,
        flops,
        per_device * jax.device_count() if per_device else None,
        memory,
        mesh,
        devices,
    )


def _bytes(tree: PyTree) -> int:
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
