"""Every change that memgraph makes to torch's Python, in one place; all of it undone on exit, also after an exception.

Each entry says what torch does and why that has to differ for a device that is not there. Tried on torch 2.11 to 2.15.
A name that is gone raises `TorchChanged`, so that nothing goes on half-patched.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.jit import _builtins
from torch.nested._internal import nested_tensor
from torch.optim import optimizer as optimizer_module
from torch.utils import _device, _foreach_utils

from memgraph.errors import TorchChanged
from memgraph.gpu.call import TensorMeta
from memgraph.gpu.rules.memory_format import suggests_last
from memgraph.virtual.copying import deepcopy_fake
from memgraph.virtual.cuda import ACCELERATOR, Ranges
from memgraph.virtual.random import VirtualGenerator, set_if_known

_MISSING = object()
_instead_of: dict[int, Any] = {}
"""What is replaced, by the identity of the function that stands there."""


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is `value` while open.

    Raises:
        TorchChanged: there is no such name to replace.
    """
    own = vars(owner).get(name, _MISSING)
    if own is _MISSING and not hasattr(owner, name):
        raise TorchChanged(
            f"torch {torch.__version__} has no {owner.__name__}.{name} any more; memgraph supports 2.11 to 2.15"
        )
    if callable(value):
        _instead_of[id(value)] = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        _instead_of.pop(id(value), None)
        if own is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


@contextlib.contextmanager
def put(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is `value` while open, whether there was one before or not."""
    if hasattr(owner, name):
        with replaced(owner, name, value):
            yield
        return
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)


class NobodysTensor(FakeTensor):
    """What `torch._subclasses.FakeTensor` is while a virtual GPU is open: no tensor is one. Libraries ask for it to
    know whether they are being traced for `torch.compile`, and then take other paths than a real run (transformers'
    `is_tracing` builds attention masks that a real run skips). torch's own code asks the module that defines it."""


@contextlib.contextmanager
def tensors_behave() -> Iterator[None]:
    """The changes that fake tensors need wherever they train, with a GPU or without."""
    _fill_tables()
    with contextlib.ExitStack() as stack:
        for kinds in (optimizer_module._foreach_supported_types, _foreach_utils._foreach_supported_types):
            stack.enter_context(_foreach_takes_fake_tensors(kinds))
        stack.enter_context(_tensor_constructor_moves_through_the_dispatcher())
        stack.enter_context(replaced(FakeTensor, "__deepcopy__", deepcopy_fake))
        stack.enter_context(replaced(fake_tensor.log, "disabled", True))  # it logs what is raised, with two tracebacks
        stack.enter_context(convolutions_go_to_cudnn())
        stack.enter_context(_refused_arguments_are_only_raised())
        stack.enter_context(_parameters_with_methods_are_parameters())
        stack.enter_context(replaced(torch._subclasses, "FakeTensor", NobodysTensor))
        stack.enter_context(replaced(FakeTensor, "get_nested_int", jagged_size))
        stack.enter_context(replaced(torch, "Generator", VirtualGenerator))
        for owner in (torch, torch.random):
            stack.enter_context(replaced(owner, "set_rng_state", set_if_known(torch.random.set_rng_state)))
        stack.enter_context(replaced(torch.nn.parallel.comm, "scatter", _on_the_one_device))
        stack.enter_context(replaced(_builtins, "_find_builtin", _as_it_was(_builtins._find_builtin)))
        yield


@contextlib.contextmanager
def _parameters_with_methods_are_parameters() -> Iterator[None]:
    """To FakeTensor of torch 2.11 a class of parameters that adds methods alone (bitsandbytes' `Params4bit` on its way
    to the card) is a tensor that answers for itself, which it cannot; newer ones take it as the parameter it is."""
    original = fake_tensor._check_for_subclass_arg

    def answers_for_itself(argument: object) -> bool:
        plain = isinstance(argument, torch.nn.Parameter) and _no_dispatch(type(argument))
        return not plain and original(argument)

    with replaced(fake_tensor, "_check_for_subclass_arg", answers_for_itself):
        yield


def _no_dispatch(kind: type[torch.Tensor]) -> bool:
    return kind.__torch_dispatch__ is torch.Tensor.__torch_dispatch__


def _fill_tables() -> None:
    """What torch writes down once of its functions, by their identity: those that a device context gives a place
    (torch/utils/_device.py), and those that TorchScript has built in. Filled while others stand in for them, the tables
    would know these, now and after."""
    _device._device_constructors()
    _builtins._get_builtin_table()


def _as_it_was(find: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`torch.jit.script` knows torch's functions by their identity (torch/jit/_builtins.py), `torch.tensor` among them;
    it takes one that stands for another for that one."""
    return lambda function: find(_instead_of.get(id(function), function))


def _on_the_one_device(tensor: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, ...]:
    """`DataParallel` hands each device its share, with an op that a CPU-only build has not; there is one device."""
    return (tensor.to("cuda"),)


def jagged_size(self: FakeTensor, *, coeff: int | torch.SymInt = 1) -> torch.SymInt:
    """The size of a jagged tensor's ragged dimension, which stands for these offsets: a number for each tensor of
    offsets, as for real ones (`get_tensor_symint`, torch/nested/_internal/nested_tensor.py). Fake ones are given a
    symbol of `torch.compile`'s, which needs a tracer."""
    registry = nested_tensor._tensor_symint_registry
    if self not in registry:
        number = nested_tensor._tensor_id_counter
        node = getattr(nested_tensor, "NestedIntNode", None)  # in Python from torch 2.12 on
        registry[self] = torch.SymInt(node(number, coeff)) if node else torch._C._get_nested_int(number, coeff)  # type: ignore[arg-type]
        nested_tensor._tensor_id_counter += 1
    return registry[self]


@contextlib.contextmanager
def _refused_arguments_are_only_raised() -> Iterator[None]:
    """FakeTensor also logs a traceback of its own when an op refuses its arguments (`_dispatch_impl`,
    torch/_subclasses/fake_tensor.py); a real device only raises."""
    log = logging.getLogger(FakeTensor.__module__)
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


@contextlib.contextmanager
def _foreach_takes_fake_tensors(kinds: list[Any]) -> Iterator[None]:
    """Optimizers take their `foreach` form on CUDA only for these exact types; a fake parameter is a `FakeTensor`."""
    kinds.append(FakeTensor)
    try:
        yield
    finally:
        kinds.remove(FakeTensor)


@contextlib.contextmanager
def _tensor_constructor_moves_through_the_dispatcher() -> Iterator[None]:
    """`torch.tensor(x, device="cuda")` otherwise makes a real CUDA tensor below every dispatch mode
    (torch/csrc/utils/tensor_new.cpp, `internal_new_from_data`)."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


_CUDA = (torch.cuda, torch.cuda.memory, torch.cuda.random, torch.cuda.streams)
_originals: dict[tuple[Any, str], Any] = {}
"""What torch had before it answered for the virtual GPU."""


@contextlib.contextmanager
def answered(owner: Any, name: str, answer: Any) -> Iterator[None]:
    """Replaced while open, and torch's own again within `as_torch_is`."""
    _originals[owner, name] = getattr(owner, name, None)
    try:
        with replaced(owner, name, answer):
            yield
    finally:
        _originals.pop((owner, name), None)


@contextlib.contextmanager
def cuda_answers(answers: Mapping[str, Any]) -> Iterator[None]:
    """`torch.cuda.*` answers for the virtual GPU; also under the submodules that define the names."""
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            for module in [module for module in _CUDA if hasattr(module, name)] or [torch.cuda]:
                stack.enter_context(answered(module, name, answer))
        for owner in (torch.accelerator, torch.accelerator.memory):  # the same questions under newer names
            for name in ACCELERATOR.keys() & vars(owner).keys():
                stack.enter_context(replaced(owner, name, answers[ACCELERATOR[name]]))
        stack.enter_context(replaced(torch.cuda.nvtx, "_nvtx", Ranges()))
        yield


@contextlib.contextmanager
def around_backwards(prepare: Callable[[], None], afterwards: Callable[[], None]) -> Iterator[None]:
    """`prepare` is called before the first backward that begins while open, `afterwards` after each. All that Python
    starts go through this one function, `torch.autograd.backward` and `grad` alike (torch/autograd/graph.py)."""
    original = torch.autograd._engine_run_backward  # type: ignore[attr-defined]
    waiting = [prepare]

    def run(*args: Any, **kwargs: Any) -> Any:
        while waiting:
            waiting.pop()()
        try:
            return original(*args, **kwargs)
        finally:
            if torch._C._current_graph_task_id() == -1:  # none goes on around it
                afterwards()

    with replaced(torch.autograd, "_engine_run_backward", run):
        yield


@contextlib.contextmanager
def as_torch_is() -> Iterator[None]:
    """`torch.cuda`, what the build says of itself and torch's `FakeTensor` are their own while open. Modules that are
    imported then may keep them; what they would keep otherwise would outlive the virtual GPU."""
    with contextlib.ExitStack() as stack:
        for (module, name), original in _originals.items():
            stack.enter_context(replaced(module, name, original))
        stack.enter_context(replaced(torch._subclasses, "FakeTensor", FakeTensor))
        yield


@contextlib.contextmanager
def convolutions_go_to_cudnn() -> Iterator[None]:
    """FakeTensor asks C++ which backend a convolution takes, to know its result's layout. A CUDA build asks the driver
    on the way and fails without a GPU; a CPU-only build knows no cuDNN. cuDNN takes all of them here; it answers in
    channels-last if the input or the weight is (`cudnn_conv_suggest_memory_format` of ATen/native/ConvUtils.h)."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(torch._C, "_select_conv_backend", _cudnn))
        stack.enter_context(replaced(torch._C, "_conv_determine_backend_memory_format", _cudnn_layout))
        yield


def _cudnn(*_: Any, **__: Any) -> Any:
    return torch._C._ConvBackend.Cudnn  # type: ignore[attr-defined]


def _cudnn_layout(source: torch.Tensor, weight: torch.Tensor, _backend: Any) -> torch.memory_format:
    double = torch.float64 in (source.dtype, weight.dtype)
    if not double and any(one.dim() in (4, 5) and suggests_last(_meta(one)) for one in (source, weight)):
        return torch.channels_last_3d if weight.dim() == 5 else torch.channels_last
    return torch.contiguous_format


def _meta(tensor: torch.Tensor) -> TensorMeta:
    return TensorMeta(tuple(tensor.shape), tensor.stride(), "", tensor.element_size())
