"""Training steps of a model as one rank of a mesh. As `step.py`, with what torch.distributed does around it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.distributed.tensor.experimental import context_parallel

from memgraph.capture.step import (
    DEVICE,
    DTYPES,
    Mark,
    Progress,
    autocast,
    checkpoint_block,
    freeze,
    one_step,
    optimizer_of,
    repeated_blocks,
)
from memgraph.errors import UsageError
from memgraph.mesh import Mesh
from memgraph.models.caches import keep_none
from memgraph.models.job import Batch, Job, feed
from memgraph.models.parts import Passing, Stage, attend_causally, cut_itself, shifted, tensor_plan
from memgraph.options import Options
from memgraph.world import spread


def run_on_mesh(job: Job, options: Options, mesh: Mesh, mark: Mark, progress: Progress) -> None:
    """Load this rank's part of the model, then run its steps. Other arguments as of `run_steps`.

    The model is spread without storage (on the meta device); then its part is given storage, as a script does that
    loads a sharded checkpoint, and its buffers are there again. So nothing that is larger than a rank's part was ever
    there.

    Raises:
        UsageError: the model has no plan for what is asked, or sizes do not divide.
    """
    progress("building the model", 0, options.steps)
    torch.cuda.set_device(mesh.rank % torch.cuda.device_count())
    made = spread.joined_mesh(mesh)
    if mesh.cp > 1:
        job = _cut_along_the_sequence(job, made["cp"], mesh, options.model)
    model = _load(job, options, mesh, made)
    mark("input")
    rank = _Stages(job, options, mesh, model, made, mark) if mesh.pp > 1 else _Whole(job, options, model, mark)
    for step in range(options.steps):
        progress(f"step {step + 1} of {options.steps}", step, options.steps)
        if step:
            mark("input")
        rank.step()
    progress("done", options.steps, options.steps)


def _load(job: Job, options: Options, mesh: Mesh, made: DeviceMesh) -> nn.Module:
    """This rank's part on the card, spread as the mesh says."""
    name = options.model
    model = job.model().to(DTYPES[options.dtype])
    buffers, tied = _buffers(model), _tied(model)
    model.to("meta")
    _tie(tied)
    model.train()
    if "use_cache" not in options.set:
        keep_none(model)  # as transformers' Trainer has it: `use_cache` of TrainingArguments
    if mesh.cp > 1:
        attend_causally(model)
    freeze(model, options.freeze)
    blocks = _outermost(repeated_blocks(model))
    plan = tensor_plan(model, name, mesh.tp) if mesh.tp > 1 else {}
    if mesh.pp > 1:
        stage = Stage(model, mesh.stage, mesh.pp, name)
        blocks = [block for block in blocks if any(block is module for module in model.modules())]
    if plan:
        if foreign := spread.unknown_words(plan):
            cut_itself(model, made["tp"], name, foreign)
        else:
            spread.cut_layers(model, made, _of(model, plan))
        _tie(tied)
    for block in blocks if options.checkpoint == "blocks" else ():
        checkpoint_block(block)
    for block in blocks if options.compile != "none" else ():
        block.compile(mode=options.compile)
    whole: nn.Module = stage if mesh.pp > 1 else model
    if mesh.fsdp == "blocks":
        compute = "bf16" if options.amp == "bf16" else None
        spread.shard(whole, blocks, spread.shards_of(made, mesh), mesh, compute)
    whole.to_empty(device=DEVICE)
    _tie(tied)
    _put_back(buffers, whole)
    return spread.copied(whole, spread.shards_of(made, mesh)) if _is_copied(mesh) else whole


def _is_copied(mesh: Mesh) -> bool:
    return mesh.fsdp == "none" and mesh.shards > 1


def _outermost(blocks: Mapping[str, nn.Module]) -> list[nn.Module]:
    """Those that are in no other: a block's experts go with it."""
    return [block for path, block in blocks.items() if not any(path.startswith(f"{other}.") for other in blocks)]


def _of(model: nn.Module, plan: Mapping[str, str]) -> dict[str, str]:
    """The plan's words by the paths of the modules that are here."""
    return {
        path: plan[wild]
        for path, module in model.named_modules()
        if (wild := re.sub(r"\.\d+(?=\.|$)", ".*", path)) in plan and not isinstance(module, Passing)
    }


Buffers = list[tuple[nn.Module, str, torch.Tensor]]
"""Tables, masks, positions: whose, its name, and what it is on the host."""


def _buffers(model: nn.Module) -> Buffers:
    return [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]


def _put_back(buffers: Buffers, model: nn.Module) -> None:
    """No checkpoint has all of them: scripts make them again, and what is asked of their values has its answer."""
    here = set(model.modules())
    for module, name, buffer in buffers:
        if module in here:
            module._buffers[name] = buffer.to(DEVICE)


Ties = list[list[tuple[nn.Module, str]]]
"""For each parameter that several modules have: their own names for it."""


def _tied(model: nn.Module) -> Ties:
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                found.setdefault(id(parameter), []).append((module, name))
    return [places for places in found.values() if len(places) > 1]


def _tie(ties: Ties) -> None:
    """What gets storage, or is cut, is another object (`Module._apply`): scripts tie it again."""
    for (first, name), *others in ties:
        for module, other in others:
            module._parameters[other] = first._parameters[name]


def _cut_along_the_sequence(job: Job, made: DeviceMesh, mesh: Mesh, name: str) -> Job:
    """Context parallel: each batch is cut in place while it goes forward and backward.

    Raises:
        UsageError: it is no causal language model, whose attention torch can cut.
    """
    if job.settings.get("task") != "causal-lm":
        raise UsageError(
            f"{name} is no causal language model, which cp can cut: leave cp out, or write a script and use memgraph "
            "run --world"
        )

    def inputs() -> Batch:
        batch = shifted(job.inputs())
        length = batch["input_ids"].shape[1]
        if length % (2 * mesh.cp):  # the head and the tail of a sequence go to one rank, for causal work to be even
            raise UsageError(f"cp={mesh.cp} does not divide seq {length} into twice as many parts")
        return batch

    def around(batch: Batch) -> Any:
        buffers = list(batch.values())
        return context_parallel(made, buffers=buffers, buffer_seq_dims=[1] * len(buffers),
                                no_restore_buffers=set(buffers))  # fmt: skip

    return dataclasses.replace(job, inputs=inputs, around=around)


class _Whole:
    """Steps of a rank that has all layers."""

    def __init__(self, job: Job, options: Options, model: nn.Module, mark: Mark) -> None:
        options = _as_fsdp(options)
        self._fixed = job, options, model, _optimizer(model, options), torch.amp.GradScaler(DEVICE, enabled=False)
        self._kept: tuple[dict[str, Any], dict[str, Any]] = {}, {}
        self._mark = mark

    def step(self) -> None:
        """One of them."""
        one_step(*self._fixed, *self._kept, self._mark)


class _Stages:
    """Steps of a rank that has one stage of a pipeline, by the schedule 1F1B."""

    def __init__(
        self, job: Job, options: Options, mesh: Mesh, model: nn.Module, made: DeviceMesh, mark: Mark
    ) -> None:  # fmt: skip
        self._job, self._options, self._mark = job, options, mark
        self._stage: Stage = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model  # type: ignore[assignment]
        self._optimizer = _optimizer(model, options)
        self._batch: dict[str, Any] = {}
        device = torch.device(DEVICE, torch.cuda.current_device())
        given, made_of_it = _shapes(job, options, mesh, self._stage)
        passed = PipelineStage(
            model, mesh.stage, mesh.pp, device, given, made_of_it, group=made["pp"].get_group()
        )  # fmt: skip
        loss = self._stage.loss if mesh.cp == 1 else self._stage.loss_of_shifted
        self._schedule = Schedule1F1B(passed, options.accumulate, loss)

    def step(self) -> None:
        """One of them: the samples of all micro-batches are on the card."""
        options = self._options
        feed(self._batch, _repeated(self._job.inputs(), options.accumulate), DEVICE)
        self._optimizer.zero_grad(set_to_none=options.zero_grad == "none")
        self._mark("forward")
        with self._job.around(self._batch), autocast(_as_fsdp(options)):
            tokens = (self._batch["input_ids"],) if self._stage.first else ()
            more = {name: self._batch[name] for name in ("position_ids",) if name in self._batch}
            labels = {"target": self._batch.get("shift_labels", self._batch["labels"])} if self._stage.last else {}
            self._schedule.step(*tokens, **labels, **more, return_outputs=False)
        self._mark("optimizer")
        self._optimizer.step()


def _as_fsdp(options: Options) -> Options:
    """Without autocast where FSDP's policy says the type."""
    return dataclasses.replace(options, amp="none") if options.mesh and options.mesh.fsdp != "none" else options


def _optimizer(model: nn.Module, options: Options) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return optimizer_of(spread.in_groups(trained), options)


def _repeated(batch: Batch, times: int) -> Batch:
    """The samples of so many micro-batches, one after the other."""
    return {name: torch.cat([value] * times) if times > 1 else value for name, value in batch.items()}


def _shapes(job: Job, options: Options, mesh: Mesh, stage: Stage) -> tuple[torch.Tensor, torch.Tensor]:
    """What a micro-batch is when it comes and when it goes, so that stages need not ask each other. Hidden states have
    the type of the parameters as the forward sees them: what an embedding gives, and what residuals are added to."""
    tokens = job.inputs()["input_ids"]
    samples, length = tokens.shape[0], tokens.shape[1] // mesh.cp
    kind = torch.bfloat16 if mesh.fsdp != "none" and options.amp == "bf16" else DTYPES[options.dtype]

    def empty(width: int, kind: torch.dtype) -> torch.Tensor:
        return torch.empty(samples, length, width, dtype=kind, device="meta", requires_grad=True)

    hidden = empty(stage.width, kind)
    words = empty(stage.words, kind if options.amp == "none" else torch.bfloat16) if stage.last else hidden
    return tokens.to("meta")[:, :length] if stage.first else hidden, words
