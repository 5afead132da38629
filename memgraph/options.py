"""What to run: the options that the command line and Python share."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from memgraph.errors import UsageError, unknown_name
from memgraph.mesh import Mesh
from memgraph.small_file import read_text

AMP = ("bf16", "fp16", "none")
DTYPES = ("float32", "bfloat16", "float16")
OPTIMIZERS = ("adamw", "adam", "sgd", "sgd-momentum", "adafactor", "adamw-8bit")
OPTIMIZER_FORMS = ("default", "foreach", "fused", "loop")
CHECKPOINTS = ("none", "blocks")
ZERO_GRADS = ("none", "zeros")
TASKS = (
    "causal-lm", "seq2seq-lm", "masked-lm", "sequence-classification", "token-classification", "question-answering",
    "image-text-to-text", "contrastive", "image-classification", "semantic-segmentation", "speech-seq2seq", "ctc",
    "audio-classification",
)  # fmt: skip
"""What a model of transformers may be trained for: the names in `models/tasks.py`."""
TORCH_OLDEST, TORCH_NEWEST = (2, 11), (2, 15)
"""Releases whose allocator and library rules are known."""
COMPILES = ("none", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


MOST = {"batch": 2**30, "seq": 2**30, "memory": 2**62, "steps": 10_000, "accumulate": 10_000}
"""What is more is a slip of the keyboard, or a run without end: micro-batches are traced one by one."""


@dataclass(frozen=True)
class Options:
    """A training step to predict. Sizes of memory are bytes.

    Raises:
        UsageError: a value is not one of those known, or not a positive number.
    """

    model: str = "nanovlm-222m"
    task: str | None = None
    """What a `transformers:` model is trained for; None for what its configuration says."""
    batch: int = 8
    seq: int | None = None
    """Tokens a sample; None for the model's own."""
    gpu: str | None = None
    """Catalogue name; None for the visible card, or else the RTX 3090."""
    memory: int | None = None
    """What PyTorch's allocator may take; None for the card's memory less its CUDA context."""
    amp: str = "bf16"
    """Autocast to this type, or `none`."""
    dtype: str = "float32"
    """Of the parameters."""
    optimizer: str = "adamw"
    optimizer_impl: str = "default"
    steps: int = 2
    set: Mapping[str, str] = field(default_factory=dict)
    """Fields of the model's configuration."""
    checkpoint: str = "none"
    """`blocks`: recompute every repeated block in the backward. Or a plan of `memgraph checkpoint`: the path of its
    file, whose text takes its place here."""
    freeze: str = ""
    """Modules whose parameters are not trained, by path, with commas: `vision_encoder,MP`."""
    zero_grad: str = "none"
    """Between steps gradients are set to `none`, which frees them, or to `zeros`, which keeps them."""
    clip: float | None = None
    """Clip the gradients' norm to this."""
    accumulate: int = 1
    """Micro-batches a step."""
    compile: str = "none"
    """Run the model through `torch.compile` in this mode."""
    activation_memory_budget: float = 1.0
    """Of a compiled model's activations, the share that the partitioner may save for the backward, 0 to 1: torch's
    `torch._functorch.config.activation_memory_budget`."""
    alloc_conf: str | None = None
    """As PYTORCH_CUDA_ALLOC_CONF; None for what the environment says."""
    torch: str | None = None
    """The torch of the machine that will run it, `2.11`; None for the one that is installed."""
    mesh: Mesh | None = None
    """The ranks that it is spread over, and the one to predict; None for one GPU. `batch` is then what each copy of the
    model is given at a time, and `accumulate` how often in a step."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "checkpoint", _checkpoint(self.checkpoint))
        for name, value, known in (
            ("amp", self.amp, AMP),
            ("dtype", self.dtype, DTYPES),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("optimizer form", self.optimizer_impl, OPTIMIZER_FORMS),
            ("zero_grad", self.zero_grad, ZERO_GRADS),
            ("task", self.task, (*TASKS, None)),
            ("compile mode", self.compile, COMPILES),
        ):
            if value not in known:
                raise unknown_name(name, str(value), [text for text in known if text is not None])
        for name, number in (
            ("batch", self.batch),
            ("seq", self.seq),
            ("memory", self.memory),
            ("steps", self.steps),
            ("accumulate", self.accumulate),
        ):
            if number is not None and (type(number) is not int or number < 1):
                raise UsageError(f"{name} is {number}: it must be a whole number, at least 1")
            if number is not None and number > MOST[name]:
                raise UsageError(f"{name} is {number}: it may be {MOST[name]:,} at most")
        if self.steps * self.accumulate > MOST["steps"]:
            raise UsageError(
                f"{self.steps} steps of {self.accumulate} micro-batches: {MOST['steps']:,} in all may be traced; from "
                "the third step on they are alike"
            )
        torch_release(self.torch)
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise UsageError(f"clip is {self.clip}: it must be a number above 0")
        if not 0 <= self.activation_memory_budget <= 1:
            raise UsageError(f"activation_memory_budget is {self.activation_memory_budget}: it is a share, from 0 to 1")
        if self.activation_memory_budget != 1 and self.compile == "none":
            raise UsageError("activation_memory_budget is for compiled models: add --compile")
        self._check_mesh()

    def _check_mesh(self) -> None:
        """What torch has no way for on several ranks, or nobody has tried. Pipelines have a micro-batch for each stage
        at least (`Schedule1F1B`), and that many if nothing is said."""
        if self.mesh is None:
            return
        for wrong, way in (
            (self.amp == "fp16", "a scaler of gradients in shards was not tried: use --amp bf16"),
            (self.optimizer == "adamw-8bit" and (self.mesh.fsdp != "none" or self.mesh.tp > 1),
             "adamw-8bit takes whole parameters: use adamw or adafactor"),
            (self.plan is not None, "a plan is for one GPU: use --checkpoint blocks"),
            (self.compile != "none" and self.mesh.pp * self.mesh.tp * self.mesh.cp > 1, "--compile goes with dp alone"),
            (self.mesh.pp > 1 and self.clip, "clip_grad_norm_ knows one stage of a pipeline: leave --clip out"),
            (1 < self.accumulate < self.mesh.pp, f"its {self.mesh.pp} stages need as many micro-batches: --accumulate "
             f"{self.mesh.pp} or more"),
        ):  # fmt: skip
            if wrong:
                raise UsageError(f"mesh {self.mesh.text}: {way}")
        if self.accumulate == 1:
            object.__setattr__(self, "accumulate", self.mesh.pp)

    @property
    def plan(self) -> str | None:
        """The text of the checkpoint plan, if there is one."""
        return None if self.checkpoint in CHECKPOINTS else self.checkpoint

    def settings(self) -> dict[str, Any]:
        """What a trace keeps of them: plain JSON values."""
        return {
            "model": self.model, "task": self.task, "batch": self.batch, "seq": self.seq, "amp": self.amp,
            "dtype": self.dtype, "optimizer": self.optimizer, "optimizer_impl": self.optimizer_impl,
            "steps": self.steps, "set": dict(self.set),
            "checkpoint": self.checkpoint, "freeze": self.freeze, "zero_grad": self.zero_grad,
            "clip": self.clip, "accumulate": self.accumulate, "compile": self.compile,
            "activation_memory_budget": self.activation_memory_budget,
            **({} if self.mesh is None else self.mesh.settings()),
        }  # fmt: skip


def torch_release(text: str | None) -> tuple[int, int] | None:
    """`2.11` or `2.11.0+cu130` as (2, 11).

    Raises:
        UsageError: it is no release whose allocator is known.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,3})\.(\d{1,3})(\.\d[\w.+]*)?", text)
    release = (int(found[1]), int(found[2])) if found else None
    if release is None or not TORCH_OLDEST <= release <= TORCH_NEWEST:
        low, high = (".".join(map(str, version)) for version in (TORCH_OLDEST, TORCH_NEWEST))
        raise UsageError(f"torch {text[:40]} is not known: give a release from {low} to {high}")
    return release


def _checkpoint(value: str) -> str:
    """One of `CHECKPOINTS`, or a plan's text, read from its file if it is not the text itself."""
    if value in CHECKPOINTS or value.lstrip().startswith("{"):
        return value
    try:
        found = json.loads(read_text(value))
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
        return json.dumps(found)
    except FileNotFoundError:
        if value.endswith(".json"):
            raise UsageError(f"there is no plan {value}: write one with `memgraph checkpoint -o {value}`") from None
        raise unknown_name("checkpoint", value, CHECKPOINTS) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{value} is no checkpoint plan: {error}") from error
