"""An experiment as a value, and `train`, which runs it."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import chz
import jax
import numpy as np

from ptjax import partition
from ptjax.branch import Branch, parse
from ptjax.checkpoint import Checkpoints, check_workdir, restore_params
from ptjax.config import Config, UserError, published
from ptjax.data.pipeline import Data, Pipeline, Shard
from ptjax.data.prepared import Prepared
from ptjax.data.tokenizers import Tokenizer, VocabSpec
from ptjax.evaluate import evaluate
from ptjax.learner import Learner
from ptjax.logging import Logger, Logging, measure_peak
from ptjax.loop import Loop, Signals
from ptjax.models.base import TextModelConfig
from ptjax.objectives.base import Objective
from ptjax.optim import AdamW, Optimizer
from ptjax.provenance import Record
from ptjax.types import PyTree, TrainState
from ptjax.weights import Beginning, Source


@chz.chz
class Checkpointing(Config):
    """When the state is saved and what is kept. The end of a run, SIGTERM and Ctrl-C always save."""

    every: int | None = chz.field(default=None, doc="steps between saves; None: only by time")
    minutes: float | None = chz.field(default=5.0, doc="minutes between saves; None: only by steps")
    keep: int = chz.field(default=2, doc="how many of the latest steps are kept")
    keep_steps: tuple[int, ...] = chz.field(default=(), doc="steps that are saved and never dropped, to branch from")
    best: str | None = chz.field(default="loss", doc="the validation metric whose lowest step is kept too; None: no")

    @chz.validate
    def _positive(self):
        _require_positive(self, "checkpoint", ("every", "minutes", "keep"))
        if any(step < 1 for step in self.keep_steps):
            raise ValueError(f"checkpoint.keep_steps are counted from 1, not {self.keep_steps}")


@chz.chz
class Evaluation(Config):
    """Validation during training."""

    every: int | None = chz.field(default=None, doc="steps between validations; None: only at the end")
    batches: int | None = chz.field(default=None, doc="batches of the validation split; None: all of it")

    @chz.validate
    def _positive(self):
        _require_positive(self, "evaluation", ("every", "batches"))


def _require_positive(config: Config, path: str, names: Sequence[str]) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ValueError(f"{path}.{name} must be above 0, not {value}")


@chz.chz
class Experiment(Config):
    """A run, whole: what `configs/*.py` return and what every checkpoint carries as JSON."""

    model: TextModelConfig = chz.field(
        meta_factory=chz.factories.subclass(TextModelConfig), doc="the body: BERT, GPT or a class of yours"
    )
    objective: Objective = chz.field(
        meta_factory=chz.factories.subclass(Objective), doc="what is learned: MLM, CausalLM or a class of yours"
    )
    data: Data
    steps: int = chz.field(doc="updates in all")
    init_from: str | None = chz.field(
        default=None, doc="workdir, or Hugging Face folder, whose weights the run begins with; None: fresh"
    )
    branch_from: str | None = chz.field(
        default=None, doc="WORKDIR@STEP: goes on from that state of another run; new heads are fresh; None: no"
    )
    optimizer: Optimizer = chz.field(
        default_factory=AdamW, meta_factory=chz.factories.subclass(Optimizer, AdamW), doc="AdamW, LAMB, Lion, Muon, SGD"
    )
    until: int | None = chz.field(default=None, doc="pauses after that step, saved; the command without it goes on")
    seed: int = chz.field(default=0, doc="of initial parameters, data order, masks and dropout")
    accumulation: int = chz.field(default=1, doc="microbatches a step: less memory, the same numbers")
    ema: float | None = chz.field(default=None, doc="decay of an average of the parameters, which is what is evaluated")
    skip_non_finite: bool = chz.field(
        default=False, doc="skip an update whose gradient is not finite, rather than stop"
    )
    skip_spikes: float | None = chz.field(
        default=None, doc="skip an update whose gradient norm is so many times its running average"
    )
    mesh: partition.MeshConfig = chz.field(default_factory=partition.MeshConfig, doc="how devices share the work")
    checkpoint: Checkpointing = chz.field(default_factory=Checkpointing, doc="when to save")
    evaluation: Evaluation = chz.field(default_factory=Evaluation, doc="when to validate")
    logging: Logging = chz.field(default_factory=Logging, doc="what to show")
    profile: tuple[int, int] | None = chz.field(
        default=None, doc="first and last step to profile into workdir/profile, numbered as in metrics.jsonl"
    )

    @chz.validate
    def _positive(self):
        for name in ("steps", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.branch_from is not None:
            if self.init_from is not None:
                raise ValueError("init_from and branch_from are two beginnings: a branch has all its weights already")
            if not 0 < parse(self.branch_from)[1] < self.steps:
                raise ValueError(f"branch_from={self.branch_from}: its step is above 0 and below steps={self.steps}")
        if self.until is not None and not self.first_step < self.until <= self.steps:
            raise ValueError(f"until={self.until}: a step above {self.first_step}, up to steps={self.steps}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32), not {self.seed}")
        if self.skip_spikes is not None and self.skip_spikes <= 1:
            raise ValueError(f"skip_spikes is a multiple of the usual gradient norm, above 1, not {self.skip_spikes}")
        if self.profile and not 1 <= self.profile[0] <= self.profile[1]:
            raise ValueError(f"profile is a first and a last step, counted from 1, not {self.profile}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema is a decay in (0, 1), not {self.ema}")

    @property
    def first_step(self) -> int:
        """How many steps its first state has behind it: those of the run that it branches from."""
        return 0 if self.branch_from is None else parse(self.branch_from)[1]

    @property
    def stop(self) -> int:
        """The step after which it ends, or pauses."""
        return self.until or self.steps

    def tokens_per_step(self) -> int:
        return self.data.batch_size * self.data.length

    def flops_per_step(self, vocab: VocabSpec) -> float:
        """Matrix-product FLOPs of one step: forward once, backward twice, recomputation (remat) not counted."""
        return 3.0 * self.data.batch_size * self.objective.flops_per_row(self.model, self.data.length, vocab)

    def check(self, mesh: jax.sharding.Mesh) -> None:
        """Raises UserError for sizes that do not fit each other or the devices, before anything is compiled."""
        self.check_sizes()
        self.check_batch(mesh)

    def check_sizes(self) -> None:
        """Of all that asks for no batch."""
        self.model.check_length(self.data.length)
        for stage in self.objective.stages(self.steps):
            for objective in stage.objective.parts():
                self._check_objective(objective)
            self._check_memory(stage.objective)

    def check_batch(self, mesh: jax.sharding.Mesh) -> None:
        """Of what is trained or evaluated: a batch is divided among devices."""
        shards = partition.batch_shards(mesh)
        parts = shards * self.accumulation
        if self.data.batch_size % parts:
            near = max(self.data.batch_size // parts, 1) * parts
            raise UserError(
                f"data.batch_size={self.data.batch_size} does not divide into mesh.data * mesh.fsdp * mesh.expert = "
                f"{shards} shards of accumulation={self.accumulation} microbatches: use a multiple of {parts}, such "
                f"as {near}"
            )

    def _check_objective(self, objective: Objective) -> None:
        name, body = type(objective).__name__, type(self.model).__name__
        if not objective.needs & self.model.offers:
            able = [cls.__name__ for cls in published(TextModelConfig) if objective.needs & cls().offers]
            raise UserError(
                f"{name} needs a body that offers {' or '.join(sorted(objective.needs))}, and {body} offers "
                f"{' and '.join(sorted(self.model.offers))}: set model to one of {', '.join(able)}"
            )
        longest = objective.longest(self.data.length)
        if "pairs" not in self.model.offers and longest > self.data.length:
            try:
                self.model.check_length(longest)
            except UserError as error:
                raise UserError(
                    f"{name} makes rows of data.length={self.data.length} tokens a source and a target, which {body} "
                    f"reads as one row of {longest} positions, and its position table has {self.model.max_length}: set "
                    f"model.max_length={longest} or more"
                ) from error
        if sum(objective.predicted(self.data.length).values()) < 1:
            raise UserError(f"{objective} predicts nothing in rows of data.length={self.data.length}: raise either")

    def _check_memory(self, objective: Objective) -> None:
        name = type(objective).__name__
        if not self.model.memory_length:
            return
        if not objective.carries:
            raise UserError(f"{name} does not carry a memory from row to row: set model.memory=0, or choose CausalLM")
        if self.data.order != "contiguous":
            raise UserError(
                f"model.memory={self.model.memory_length} goes on from row to row, which asks for rows in the order of "
                "the text: set data.order=contiguous (or model.memory=0)"
            )
        if self.mesh.layout == "pmap":
            raise UserError("a memory is divided like the batch, which pmap's state cannot be: set mesh.layout=jit")


@dataclasses.dataclass
class Run:
    """An experiment on this machine's devices: compiled steps, data and state.

    learner: of the last stage, whose question validation asks. tokenizer: of the corpus.
    """

    experiment: Experiment
    learner: Learner
    mesh: jax.sharding.Mesh
    tokenizer: Tokenizer
    abstract: PyTree  # TrainState of ShapeDtypeStructs with shardings
    shardings: PyTree
    _splits: dict[str, Pipeline] = dataclasses.field(default_factory=dict)
    _steps: dict[int, partition.CompiledStep] = dataclasses.field(default_factory=dict)

    @classmethod
    def open(cls, experiment: Experiment, devices: Sequence[jax.Device] | None = None) -> "Run":
        """Takes devices (None: all), opens the tokenizer, and checks that sizes fit; compiles nothing, and reads no
        data until batches are asked for, which then have to fit the devices. Raises UserError."""
        mesh = partition.make_mesh(experiment.mesh, devices)
        experiment.check_sizes()
        tokenizer = Prepared.open(experiment.data.corpus).tokenizer
        learner = Learner(experiment, tokenizer.vocab)
        abstract, shardings = learner.shardings(mesh)
        abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
        return cls(experiment, learner, mesh, tokenizer, abstract, shardings)

    @property
    def shard(self) -> Shard:
        return Shard(*partition.process_part(self.mesh))

    @functools.cached_property
    def pipeline(self) -> Pipeline:
        """What is trained on: batches of the training split, epoch after epoch."""
        return self._open("train", shuffle=True)

    def split(self, name: str) -> Pipeline:
        """A pass over a split of the prepared data, in order."""
        if name not in self._splits:
            self._splits[name] = self._open(name, shuffle=False)
        return self._splits[name]

    def _open(self, name: str, shuffle: bool) -> Pipeline:
        e = self.experiment
        e.check_batch(self.mesh)
        return Pipeline(e.data, name, seed=e.seed, shuffle=shuffle, transforms=e.objective.transforms())

    @functools.cached_property
    def beginning(self) -> Beginning | Branch | None:
        """What `init_from` or `branch_from` names, looked at; None for a fresh run. Raises UserError where it does not
        fit."""
        e = self.experiment
        if e.branch_from is not None:
            return Branch.open(e, self.tokenizer, self.abstract)
        if e.init_from is None:
            return None
        source = Source.open(e.init_from, self.tokenizer)
        return source.fit(self.abstract.params, self.learner.logical_axes, self.learner.vocab.size, e.model)

    def init(self) -> TrainState:
        """The state before the first step, made where it will live: no host holds all of it."""
        seed, init_state, beginning = np.uint32(self.experiment.seed), self.learner.init_state, self.beginning
        if beginning is None:
            return jax.jit(init_state, out_shardings=self.shardings)(seed)
        source = beginning.read(self.shardings.params)

        def begun(seed, source):
            if isinstance(beginning, Branch):
                return beginning.grown(source, init_state(seed))
            return init_state(seed, begin=lambda fresh: beginning.transplant(source, fresh))

        return jax.jit(begun, out_shardings=self.shardings)(seed, source)

    def learner_at(self, step: int) -> Learner:
        """Of the stage that trains step `step`, counted from 0."""
        stage = sum(step >= stage.start for stage in self.learner.stages) - 1
        last = stage == len(self.learner.stages) - 1
        return self.learner if last else dataclasses.replace(self.learner, stage=stage)

    def train_step(self, step: int) -> partition.CompiledStep:
        """What trains step `step`, counted from 0: one compiled step a stage."""
        learner = self.learner_at(step)
        if learner.stage not in self._steps:
            self._steps[learner.stage] = self._compile(learner.train_step, self.shardings, self.shardings)
        return self._steps[learner.stage]

    @functools.cached_property
    def eval_step(self) -> partition.CompiledStep:
        memory = self.shardings.memory
        return self._compile(self.learner.eval_step, (self.shardings.params, memory), memory, donate=False)

    def _compile(self, step, shardings, out, donate=True):
        config = self.experiment.mesh
        return partition.compile_step(step, self.mesh, config.rules, shardings, out, config.layout, donate)

    def restore_params(self, workdir: str | Path, step: int | None = None, only: Sequence[str] | None = None) -> PyTree:
        """What is evaluated of a run: the parameters of its last good checkpoint, or of `step`, or their average.
        only: parts of them, such as 'body'; None: all."""
        field = "params" if self.experiment.ema is None else "ema"
        abstract = self.abstract.params
        return restore_params(Path(workdir) / "checkpoints", abstract, step, tuple(only or abstract), field)

    def evaluate(self, params: PyTree, split: str = "validation", batches: int | None = None) -> dict[str, float]:
        """Means over a split of the prepared data, every row once: loss, perplexity, accuracy, bits a byte."""
        memory = jax.jit(self.learner.new_memory, out_shardings=self.shardings.memory)()
        passing = self.split(split).one_pass(batches, self.shard)
        scores = evaluate(self.eval_step, self.learner.objective.minimised, params, memory, passing)
        if "fill" in self.learner.objective.abilities() and "perplexity" in scores:
            scores["pseudo_perplexity"] = scores.pop("perplexity")  # of masked tokens: no causal model's
        return scores


def train(
    run: Run, workdir: str | Path, *, on_event: Callable[[str], None] = print
) -> tuple[TrainState, dict[str, float]]:
    """Trains in `workdir`, resuming what is there; returns the final state and its validation.

    Raises:
      UserError: sizes, data or checkpoints that do not fit; a loss that is not finite.
      Interrupted: SIGTERM or Ctrl-C; the state is saved.
    """
    experiment, workdir = run.experiment, Path(workdir)
    run.pipeline, run.split("validation")  # what would fail later fails now
    check_workdir(workdir, experiment)
    checkpoints = Checkpoints(
        workdir / "checkpoints",
        experiment.checkpoint.keep,
        experiment.checkpoint.best,
        on_event=on_event,
        keep_steps=experiment.checkpoint.keep_steps,
    )
    restored = checkpoints.restore(run.abstract)
    if not restored and run.beginning:
        on_event(str(run.beginning))
    state, start = restored or (run.init(), experiment.first_step)
    if not restored and isinstance(run.beginning, Beginning) and jax.process_index() == 0:
        run.beginning.record(workdir)
    if start >= experiment.stop:
        on_event(f"Step {start} of {experiment.steps} is done: nothing left to train")
        checkpoints.close()
        return state, run.evaluate(state.averaged, batches=experiment.evaluation.batches)
    record = Record.resume(run, workdir, start) if restored else Record.begin(run, workdir, state)
    peak = measure_peak(experiment.model.dtype)
    logger = Logger(
        workdir,
        experiment.logging,
        total_steps=experiment.stop,
        tokens_per_step=experiment.tokens_per_step(),
        flops_per_step=experiment.flops_per_step(run.learner.vocab),
        peak_flops=peak * jax.device_count(),
        primary=jax.process_index() == 0,
        start_step=start,
    )
    with contextlib.closing(logger), contextlib.closing(record), Signals() as signals:
        if restored:
            logger.event(f"Resuming from step {start} of {experiment.steps}")
        loop = Loop(run, checkpoints, record, logger, signals, workdir)
        try:
            return loop.run(state, start)
        finally:
            checkpoints.close()
