"""Random small models, losses and optimizers, run for real on CPU tensors under a mode that follows storages, and on
the virtual GPU: the same storages are born and die in the same order, with the same bytes."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import memgraph
from memgraph.trace import Action, Role, Trace

Story = list[tuple[str, int]]
"""("+", bytes) for each storage that is born, ("-", bytes) for each that dies."""


class Storages(TorchDispatchMode):
    """Follows the storages that ops return, from birth to death."""

    def __init__(self) -> None:
        super().__init__()
        self.story: Story = []
        self._live: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        taken = [tensor for arg in args for tensor in _tensors(arg)]
        for tensor in taken:
            self.meet(tensor, born=False)  # it was there before
        outputs = func(*args, **(kwargs or {}))
        for output in _tensors(outputs):
            counter = output.dim() == 0 and not taken  # an optimizer's count of steps, which stays on the host
            self.meet(output, born=not counter)
        return outputs

    def meet(self, tensor: Tensor, *, born: bool) -> None:
        """Follow a tensor's storage from now on, if it is new."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._live or not size:
            return
        if born:
            self.story.append(("+", size))
        self._live[key] = weakref.ref(storage, functools.partial(self._died, key, size if born else 0))

    def _died(self, key: int, size: int, _reference: Any) -> None:
        del self._live[key]
        if size:
            self.story.append(("-", size))


def _tensors(value: Any) -> list[Tensor]:
    return [part for part in (value if isinstance(value, (tuple, list)) else (value,)) if isinstance(part, Tensor)]


class Program(NamedTuple):
    """What to run."""

    layers: tuple[tuple[str, int], ...]
    loss: str
    optimizer: str
    batch: int
    steps: int
    micro: int
    to_none: bool
    clip: bool


LAYERS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "linear": nn.Linear,
    "plain linear": lambda width, out: nn.Linear(width, out, bias=False),
    "relu": lambda width, out: nn.ReLU(),
    "relu in place": lambda width, out: nn.ReLU(inplace=True),
    "gelu": lambda width, out: nn.GELU(),
    "tanh": lambda width, out: nn.Tanh(),
    "sigmoid": lambda width, out: nn.Sigmoid(),
    "elu": lambda width, out: nn.ELU(),
    "softmax": lambda width, out: nn.Softmax(-1),
    "layer norm": lambda width, out: nn.LayerNorm(width),
    "flatten": lambda width, out: nn.Flatten(),
}
SAVES_ITS_RESULT = ("relu", "relu in place", "tanh", "sigmoid", "softmax")
LOSSES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "square": lambda y: y.square().mean(),
    "sum": lambda y: y.sum(),
    "mse": lambda y: F.mse_loss(y, y.detach()),
    "l1": lambda y: F.l1_loss(y, y.detach()),
    "cross entropy": lambda y: F.cross_entropy(y, y.detach().argmax(-1)),
    "norm": lambda y: y.norm(),
}
OPTIMIZERS: Mapping[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, foreach=False),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1, foreach=False),
    "nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, foreach=False),
    "adam": lambda p: torch.optim.Adam(p, amsgrad=True, foreach=False),
    "adamw": lambda p: torch.optim.AdamW(p, foreach=False),
    "rmsprop": lambda p: torch.optim.RMSprop(p, foreach=False),
    "adagrad": lambda p: torch.optim.Adagrad(p, foreach=False),
    "foreach adamw": lambda p: torch.optim.AdamW(p, foreach=True),
    "foreach sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, foreach=True),
}

PROGRAMS = st.builds(
    Program,
    st.lists(st.tuples(st.sampled_from(sorted(LAYERS)), st.integers(2, 7)), min_size=1, max_size=6).map(tuple),
    st.sampled_from(sorted(LOSSES)),
    st.sampled_from(sorted(OPTIMIZERS)),
    st.integers(2, 5),
    st.integers(1, 3),
    st.integers(1, 2),
    st.booleans(),
    st.booleans(),
)


def build(program: Program, device: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model begins with a linear layer, so that there is something to train and nothing is written in place over a
    leaf."""
    width = 3
    layers: list[nn.Module] = [nn.Linear(width, width)]
    before = ""
    for name, out in program.layers:
        if name == "relu in place" and before in SAVES_ITS_RESULT:
            name = "relu"  # autograd refuses the other
        layers.append(LAYERS[name](width, out))
        before = before if name == "flatten" else name  # a view of what came before it
        width = out if "linear" in name else width
    model = nn.Sequential(*layers).to(device)
    return model, OPTIMIZERS[program.optimizer](model.parameters())


def train(program: Program, model: nn.Module, optimizer: torch.optim.Optimizer, device: str) -> None:
    """Its steps."""
    for _ in range(program.steps):
        for _ in range(program.micro):
            x = torch.ones(program.batch, 3, device=device)
            loss = LOSSES[program.loss](model(x))
            loss.backward()
            del x, loss
        if program.clip:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=program.to_none)


def on_cpu(program: Program) -> Story:
    """For real."""
    model, optimizer = build(program, "cpu")
    with Storages() as storages:
        for parameter in model.parameters():
            storages.meet(parameter, born=False)
        train(program, model, optimizer, "cpu")
    return list(storages.story)  # what dies with the model is not part of it


def on_the_virtual_gpu(program: Program) -> Story:
    """Without computing; workspaces of libraries and temporaries of kernels are CUDA's own and left out."""
    with memgraph.virtual_gpu("rtx3090") as gpu:
        model, optimizer = build(program, "cuda")
        start = len(gpu.trace.events)
        train(program, model, optimizer, "cuda")
        trace = gpu.trace
    return told(trace, start)


def told(trace: Trace, start: int) -> Story:
    """The events of tensors' storages, from one on."""
    signs = {Action.ALLOC: "+", Action.FREE: "-"}
    events = list(trace.events)[start:]
    kept = [event for event in events if event.action in signs and trace.buffers[event.buffer].role is Role.OUTPUT]
    return [(signs[event.action], trace.buffers[event.buffer].size) for event in kept]


@settings(max_examples=30, deadline=None)
@given(PROGRAMS)
def test_storages_are_born_and_die_as_on_the_cpu(program: Program) -> None:
    assert on_the_virtual_gpu(program) == on_cpu(program)


def test_the_comparison_can_fail() -> None:
    program = Program((("linear", 4),), "sum", "sgd", 2, 1, 1, True, False)
    assert on_cpu(program)
    assert on_cpu(program) != on_cpu(program._replace(batch=3))
