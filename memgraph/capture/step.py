"""Training steps of a model, as a plain script would write them. Runs on a virtual GPU or on a real one alike."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from memgraph.errors import UsageError, unknown_name
from memgraph.models.caches import keep_none
from memgraph.models.eight_bit import AdamW8bit
from memgraph.models.job import Batch, Job, feed
from memgraph.options import Options

DEVICE = "cuda"
Mark = Callable[[str], None]
Progress = Callable[[str, int, int | None], None]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_LEARNING_RATE = 1e-5


def run_steps(job: Job, options: Options, mark: Mark, progress: Progress) -> None:
    """Load the model, then run `options.steps` steps of forward, backward and optimizer.

    Args:
        job: what to train.
        options: precision, optimizer, checkpointing, clipping, accumulation.
        mark: told of each phase when it begins: `input`, `forward`, `backward`, `optimizer`.
        progress: told of each step: label, done, total.
    """
    progress("building the model", 0, options.steps)
    with _budget(options):
        _run(job, options, mark, progress)


def _run(job: Job, options: Options, mark: Mark, progress: Progress) -> None:
    model = _load(job, options)
    mark("input")
    optimizer = make_optimizer(model, options)
    scaler = torch.amp.GradScaler(DEVICE, enabled=options.amp == "fp16")
    batch: dict[str, Any] = {}
    held: dict[str, Any] = {}
    for step in range(options.steps):
        progress(f"step {step + 1} of {options.steps}", step, options.steps)
        if step:
            mark("input")
        one_step(job, options, model, optimizer, scaler, batch, held, mark)
    progress("done", options.steps, options.steps)


def _load(job: Job, options: Options) -> nn.Module:
    model = job.model()
    if options.dtype != "float32":
        model = model.to(DTYPES[options.dtype])
    model.to(DEVICE)
    model.train()
    freeze(model, options.freeze)
    if options.checkpoint == "blocks":
        checkpoint_blocks(model)
    return compiled(model, options.compile)


def compiled(model: nn.Module, mode: str) -> nn.Module:
    """The model through `torch.compile` in this mode; itself for `none`."""
    return model if mode == "none" else torch.compile(model, mode=mode)  # type: ignore[return-value]


@contextlib.contextmanager
def _budget(options: Options) -> Iterator[None]:
    """Share of its activations that a compiled model may save for the backward, while open."""
    if options.activation_memory_budget == 1:
        yield
        return
    from torch._functorch import config

    with config.patch(activation_memory_budget=options.activation_memory_budget):
        yield


def one_step(
    job: Job,
    options: Options,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: Any,
    batch: dict[str, Any],
    held: dict[str, Any],
    mark: Mark,
) -> None:
    """Forward, backward and optimizer. `held` is what a script's variables hold: a forward's results live until the
    next forward has returned its own."""
    for micro in range(options.accumulate):
        feed(batch, as_parameters(job.inputs(), options), DEVICE)
        if micro == 0:
            optimizer.zero_grad(set_to_none=options.zero_grad == "none")
        mark("forward")
        with job.around(batch):
            with autocast(options):
                held["outputs"], held["loss"] = job.forward(model, batch)
            if options.accumulate > 1:
                held["loss"] = held["loss"] / options.accumulate
            loss = scaler.scale(held["loss"])
            mark("backward")
            loss.backward()
            del loss
    mark("optimizer")
    if options.clip is not None:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), options.clip)
    scaler.step(optimizer)
    scaler.update()


def as_parameters(inputs: Batch, options: Options) -> Batch:
    """Without autocast, floating-point inputs have to be of the parameters' type."""
    if options.amp != "none" or options.dtype == "float32":
        return inputs
    return {
        name: value.to(DTYPES[options.dtype])
        if isinstance(value, torch.Tensor) and value.is_floating_point()
        else value
        for name, value in inputs.items()
    }


def autocast(options: Options) -> contextlib.AbstractContextManager[Any]:
    """What a forward runs under."""
    if options.amp == "none":
        return contextlib.nullcontext()
    return torch.autocast(DEVICE, dtype=_AUTOCAST[options.amp])


def make_optimizer(model: nn.Module, options: Options) -> torch.optim.Optimizer:
    """The optimizer by its name, in the form that was asked for: torch's default, foreach, fused or a loop."""
    return optimizer_of([parameter for parameter in model.parameters() if parameter.requires_grad], options)


def optimizer_of(parameters: Any, options: Options) -> torch.optim.Optimizer:
    """The same of parameters, or of groups of them as torch.optim takes them."""
    form = _form(options.optimizer_impl)
    if options.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=_LEARNING_RATE, **form)
    if options.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=_LEARNING_RATE, **form)
    if options.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=_LEARNING_RATE, **form)
    if options.optimizer == "sgd-momentum":
        return torch.optim.SGD(parameters, lr=_LEARNING_RATE, momentum=0.9, **form)
    if options.optimizer == "adafactor":
        if "fused" in form:
            raise UsageError("adafactor has no fused form: use foreach or loop")
        return torch.optim.Adafactor(parameters, lr=_LEARNING_RATE, **form)
    if options.optimizer == "adamw-8bit":
        return AdamW8bit(parameters, form)
    raise UsageError(f"unknown optimizer {options.optimizer!r}")


def freeze(model: nn.Module, paths: str) -> None:
    """Train no parameter of these modules.

    Args:
        paths: with commas between them; empty for none.

    Raises:
        UsageError: there is no such module.
    """
    modules = dict(model.named_modules())
    for path in filter(None, (part.strip() for part in paths.split(","))):
        if path not in modules:
            raise unknown_name("module", path, [name for name in modules if name])
        modules[path].requires_grad_(False)


def _form(name: str) -> dict[str, Any]:
    return {"default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}, "loop": {"foreach": False}}[name]


def checkpoint_blocks(model: nn.Module) -> list[str]:
    """Checkpoint (non-reentrant) every repeated block: each entry of a `ModuleList` of equal modules; and keep no keys
    and values, which would be kept twice. Returns their paths."""
    keep_none(model)
    blocks = repeated_blocks(model)
    for block in blocks.values():
        checkpoint_block(block)
    return list(blocks)


def repeated_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Each entry of a `ModuleList` of equal modules, by path."""
    return {
        f"{path}.{index}": block
        for path, modules in model.named_modules()
        if isinstance(modules, nn.ModuleList) and len({type(module) for module in modules}) == 1 and len(modules) > 1
        for index, block in enumerate(modules)
    }


def checkpoint_block(block: nn.Module) -> None:
    """Its forward runs again in the backward (non-reentrant)."""
    forward = block.forward

    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    block.forward = checkpointed  # type: ignore[method-assign]


__all__ = ["Batch", "checkpoint_blocks", "make_optimizer", "run_steps"]
