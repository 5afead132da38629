"""How far the host's generator gets with tensors that hold no values.

A large tensor that a model makes on the host is not filled here. Its real self is, by so many draws of a Mersenne
twister, and what is drawn after it (the order of a dataset, lengths of sequences) has the values that follow these.

How many draws an op takes follows its kernel on the CPU (ATen/native/cpu/DistributionTemplates.h,
ATen/core/DistributionsHelper.h): 32 bits an element, or 64. Left out are ops for which Intel's library draws itself, on
machines that have it (`bernoulli_`, `exponential_`), and what draws until all values are as wanted, as torch 2.13's
`trunc_normal_` does.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor

from memgraph.errors import ShimError
from memgraph.virtual.compiled import build, cache_folder, compiler

SOURCE = Path(__file__).with_name("mersenne.cpp")
Law = Callable[[Tensor, Sequence[Any]], int]
_WIDE = 2**28
"""Values from which one of a range takes 64 bits (`uniform_int_from_to_distribution`)."""
_FILLED = 16
"""Elements from which normal numbers are made in contiguous blocks of so many (`normal_fill`)."""


def law_of(func: OpOverload) -> Law | None:
    """Draws of 32 bits, from an op's result and its arguments; None if they are not known."""
    return _LAWS.get(func)


def advance(law: Law, output: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Let the generator of an op on the host go on as if it had drawn. Call it with the recorder switched off."""
    library = _library() if isinstance(output, FakeTensor) and output.fake_device.type == "cpu" else None
    if library is not None:
        generator = kwargs.get("generator") or torch.default_generator
        state = generator.get_state()
        library.memgraph_advance(state.data_ptr(), law(output, args))
        generator.set_state(state)


def _words(tensor: Tensor) -> int:
    return 2 if tensor.dtype in (torch.float64, torch.complex128) else 1


def _uniform(made: Tensor, _args: Sequence[Any]) -> int:
    return made.numel() * _words(made)


def _normal(made: Tensor, _args: Sequence[Any]) -> int:
    """In pairs of 64 bits each, unless it lies contiguously: then as uniform, and what is left of the last block is
    drawn again."""
    count = made.numel()
    if not made.is_contiguous():
        return 2 * (count + count % 2)
    few = _FILLED + count % _FILLED
    return (count - few) * _words(made) + _drawn(few, made.dtype)


@functools.cache
def _drawn(few: int, dtype: torch.dtype) -> int:
    """By so few normal numbers, which versions of torch differ in: how many words of a new block are used up."""
    generator = torch._C.Generator("cpu").manual_seed(0)
    torch.empty(few, dtype=dtype).normal_(generator=generator)
    return int(generator.get_state()[16:24].view(torch.int64))


def _integers(low: int, high: int, made: Tensor) -> int:
    return made.numel() * (2 if high - low >= _WIDE else 1)


def _any_integers(made: Tensor, _args: Sequence[Any]) -> int:
    return made.numel() * (2 if made.dtype in (torch.int64, torch.float64) else 1)


def _from_to(made: Tensor, args: Sequence[Any]) -> int:
    return _any_integers(made, args) if args[2] is None else _integers(args[1], args[2], made)


_aten = torch.ops.aten
_LAWS: dict[OpOverload, Law] = {
    **dict.fromkeys(
        (_aten.uniform_.default, _aten.rand.default, _aten.rand.generator, _aten.rand_like.default), _uniform
    ),
    **dict.fromkeys(
        (_aten.normal_.default, _aten.randn.default, _aten.randn.generator, _aten.randn_like.default), _normal
    ),
    **dict.fromkeys((_aten.normal.float_float, _aten.normal.Tensor_float, _aten.normal.Tensor_Tensor), _normal),
    **dict.fromkeys((_aten.randint.default, _aten.randint.generator), lambda made, args: _integers(0, args[0], made)),
    **dict.fromkeys(
        (_aten.randint.low, _aten.randint.low_generator), lambda made, args: _integers(args[0], args[1], made)
    ),
    _aten.randint_like.default: lambda made, args: _integers(0, args[1], made),
    _aten.randint_like.low_dtype: lambda made, args: _integers(args[1], args[2], made),
    _aten.random_.default: _any_integers,
    _aten.random_.to: lambda made, args: _integers(0, args[1], made),
    _aten.random_.__getattr__("from"): _from_to,
    **dict.fromkeys((_aten.randperm.default, _aten.randperm.generator), lambda made, _: max(made.numel() - 1, 0)),
}


@functools.cache
def _library() -> ctypes.CDLL | None:
    """None where there is no compiler, as there may be beside a real GPU, which needs no other library of ours."""
    path = cache_folder() / f"mersenne-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}-{platform.machine()}.so"
    try:
        if not path.exists():
            build(path, _command, "the host's generator", "CXX")
    except ShimError:
        return None
    library = ctypes.CDLL(str(path))
    library.memgraph_advance.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
    library.memgraph_advance.restype = None
    return library


def _command(output: Path) -> list[str]:
    found = compiler("CXX", ("g++", "clang++", "c++"), "there is no C++ compiler: install one, or set CXX")
    return [found, "-std=c++20", "-O3", "-fPIC", "-shared", "-w", str(SOURCE), "-o", str(output)]
