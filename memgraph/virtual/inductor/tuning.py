"""What Inductor times on the card before it decides, and what that takes while it lasts.

Two kinds are on by default (torch 2.11 to 2.13): a Triton kernel with several configurations is timed with each at its
first launch (`CachingAutotuner.autotune_to_one_config` of _inductor/runtime/triton_heuristics.py; `registers.py` has
those that get a second form), and a product whose
sizes are not aligned is timed against a padded one while the graph is compiled (`_should_pad` of
_inductor/fx_passes/pad_mm.py). Both use `InductorBenchmarker.benchmark_gpu` (_inductor/runtime/benchmarking.py): one
call, a buffer as large as the L2 cache to flush it, more calls, and the buffer is let go.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

import torch

from memgraph.gpu.padding import Operand, Product, padding_pays
from memgraph.gpu.specs import GpuSpec
from memgraph.virtual.inductor.registers import forms
from memgraph.virtual.patches import replaced

_TUNED = "_memgraph_tuned"
Context = Callable[[], contextlib.AbstractContextManager[Any]]
Timer = Callable[[Callable[[], Any]], float]


def timer(gpu: GpuSpec, timing: Context) -> Timer:
    """`benchmark_gpu` on the virtual GPU.

    Args:
        timing: open while it lasts.
    """

    def timed(call: Callable[[], Any]) -> float:
        """The call is made twice: how often more depends on how fast the card is, and takes nothing more. Its time, in
        milliseconds, is unknown and given as 1."""
        with timing():
            call()
            buffer = torch.empty(gpu.l2 // 4, dtype=torch.int, device="cuda")
            call()
            del buffer
        return 1.0

    return timed


def first_launch(timed: Timer, state: Callable[[str], None]) -> Callable[..., None]:
    """In place of `CachingAutotuner.run`."""

    def run(self: Any, *args: Any, stream: Any = None, **kwargs: Any) -> None:
        if not vars(self).get(_TUNED):
            vars(self)[_TUNED] = True
            count = forms(self)
            if count is None:
                name = self.fn.__name__
                state(f"{name} is taken to be timed in two forms: the registers it takes are not known here")
            if count != 1:
                _time_forms(timed, self, args, count or 2)

    return run


def _time_forms(timed: Timer, kernel: Any, args: tuple[Any, ...], count: int) -> None:
    """Each form writes into copies of the arguments that it changes, made anew for each call; copies that would raise
    the peak are put on the host (`copy_args_to_cpu_if_needed`). That is decided for each form: the buffer that flushes
    the cache for the first may raise the peak so far that copies of the second find room."""
    for _ in range(count):
        copied = _copied_on_the_device(kernel, args)
        timed(partial(_copy_all, copied))


def _copy_all(tensors: list[torch.Tensor]) -> None:
    copies = [_copy(tensor) for tensor in tensors]
    del copies


def _copied_on_the_device(kernel: Any, args: tuple[Any, ...]) -> list[torch.Tensor]:
    mutated = [arg for name, arg in zip(kernel.fn.arg_names, args, strict=False) if name in kernel.mutated_arg_names]
    if not kernel.optimize_mem:
        return mutated
    budget = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
    kept = []
    for tensor in mutated:
        size = _extent(tensor) * tensor.element_size()
        if size <= budget:
            budget -= size
            kept.append(tensor)
    return kept


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """`clone_preserve_strides` of _inductor/utils.py: all that lies between a tensor's ends."""
    return torch.as_strided(tensor, (_extent(tensor),), (1,)).clone()


def _extent(tensor: torch.Tensor) -> int:
    return sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1


OUTCOMES: dict[str, bool] = {}
"""Whether padding pays, by the key of `should_pad_bench_key`, where it was measured."""
_TAKEN = {True: "padded", False: "plain"}
_SIZES = re.compile(r"torch\.Size\(\[([\d, ]+)\]\), \(([\d, ]+)\), torch\.(\w+)\)")


def product_of(key: str) -> Product | None:
    """The product behind a key: shapes, strides and type of both operands, and which of them are padded before; None
    where a size is a symbol."""
    found = _SIZES.findall(key)
    if len(found) < 2:
        return None
    (left, left_stride, name), (right, right_stride, _) = found[:2]
    before = re.findall(r"exclude_pad:(True|False)", key)
    sides = [
        Operand(_numbers(shape), _numbers(stride), flag == "True")
        for shape, stride, flag in zip((left, right), (left_stride, right_stride), before, strict=True)
    ]
    return Product(sides[0], sides[1], getattr(torch, name).itemsize)


def _shapes(product: Product | None) -> str:
    if product is None:
        return "a product of symbolic sizes"
    return "the product " + " x ".join(str(list(side.shape)) for side in (product.left, product.right))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number.strip())


@contextlib.contextmanager
def products_are_padded(gpu: GpuSpec, timed: Timer, recording: Context, state: Callable[[str], None]) -> Iterator[None]:
    """A product of unaligned sizes that the arithmetic bounds is timed on the card, as it is and padded, on tensors
    made for it. Here the trial allocates, and its outcome is an estimate."""
    pad_mm: Any = import_module("torch._inductor.fx_passes.pad_mm")

    def is_padded_faster(key: str, _plain: float, _padded: float) -> bool:
        pays = OUTCOMES.get(key)
        if pays is None:
            product = product_of(key)
            pays = product is None or padding_pays(product, gpu)
            which = _TAKEN[pays]
            state(f"torch.compile times {_shapes(product)} as it is and padded: {which} is taken to be faster")
        pad_mm.set_cached_should_pad(key, pays)
        return pays

    with contextlib.ExitStack() as stack:
        # Remembered across runs since torch 2.13, also those on another card.
        stack.enter_context(replaced(pad_mm, "_should_pad", inspect.unwrap(pad_mm._should_pad)))
        stack.enter_context(replaced(pad_mm, "no_dispatch", recording))
        stack.enter_context(replaced(pad_mm, "get_do_bench", lambda: timed))
        stack.enter_context(replaced(pad_mm, "is_padded_faster", is_padded_faster))
        yield


@contextlib.contextmanager
def products_stay_with_libraries(state: Callable[[str], None]) -> Iterator[None]:
    """`max-autotune` times Triton templates against cuBLAS and cuDNN on the card; nothing can be timed here, and the
    library's kernel is taken. Where there are templates alone (`flex_attention`'s), they differ in their tiles, and the
    first is as good as any."""
    selector = import_module("torch._inductor.select_algorithm").AlgorithmSelectorCache
    choose = selector.__call__

    def library(self: Any, name: str, choices: list[Any], *args: Any, **kwargs: Any) -> Any:
        libraries = [choice for choice in choices if selector._is_extern(choice)]
        if len(choices) > 1:
            which = f"the library's {name}" if libraries else f"the first of {len(choices)} templates of {name}"
            state(f"autotuning is taken to choose {which}; what its trials take is not counted")
            choices = (libraries or choices)[:1]
        return choose(self, name, choices, *args, **kwargs)

    with replaced(selector, "__call__", library):
        yield
