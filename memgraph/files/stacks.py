"""What the stack of an allocation says: the op, the phase, the user's line.

torch's history (`torch/csrc/profiler/combined_traceback.cpp`) keeps frames of Python, of C++, or both, the innermost
first. C++ names an ATen op by `at::_ops::NAME::call`, and by `redispatch` below autograd; a backward by its node and
the engine. A backward runs in a thread of its own, which has no frames of Python.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from memgraph.files.composed import COMPOSED
from memgraph.files.native_frames import demangled

_OP = re.compile(r"^at::_ops::(\w+)::(call|redispatch)(?:\(|$)")
_NODE = re.compile(r"^torch::autograd::(?:generated::)?(\w+)::apply(?:\(|$)")
"""Windows names functions without what they take (DbgHelp's undecorated names)."""
_OUTPUT = re.compile(
    r"^at::native::resize_|^at::detail::empty_|^at::detail::_empty_|empty_strided_cuda|::empty_cuda(?:\(|$)|set_output"
)
_LIBRARY = re.compile(
    r"^at::cuda::getCurrentCUDABlas|getCUDABlasLtWorkspace|CublasHandlePool|getCurrentCUDASparseHandle"
)
_ABOVE = re.compile(
    r"CompositeImplicitAutograd|^at::autocast::|^at::native::(linear|matmul|to|reshape|contiguous)(?:\(|$)"
)
_TORCH = re.compile(
    r"[\\/]torch[\\/](?:_\w+(?:\.py$|[\\/])|(?:amp|ao|autograd|backends|compiler|cpu|cuda|distributed|distributions|export|"
    r"fft|func|functional|futures|fx|jit|library|linalg|masked|multiprocessing|nested|nn|onnx|optim|overrides|package|"
    r"profiler|quantization|random|serialization|signal|sparse|special|storage|testing|utils|version|xpu)(?:\.py$|[\\/]))"
)
"""A file of torch, however it was installed; a user's folder may be called so too."""
_STANDARD = re.compile(r"[\\/]lib[\\/]python3[\\.\d]*[\\/](?!(?:site|dist)-packages[\\/])|^<(?!ipython|stdin)|^<frozen")
_INSTALLED = re.compile(r"[\\/](?:site|dist)-packages[\\/]")
_OVERLOAD = re.compile(
    r"(?<=[a-z0-9_])_(?:[A-Z]\w*|dim_\w+|out|dim|int|default|self|input|names?|low|start|start_step|using_ints|dtype|"
    r"dtype_layout|device|vec|padding|generator|grad_input|output_mask|correction|other|memory_format)$"
)
"""How the names of `at::_ops` end that have an overload's at their end."""
_MODULE_CALL = ("_call_impl", "_wrapped_call_impl", "__call__", "decorate_context", "wrapper")
_MAKES = frozenset(("__init__", "reset_parameters", "convert", "_apply", "cuda", "to", "to_empty"))
_NN = re.compile(r"[\\/]torch[\\/]nn[\\/]")


class Site(NamedTuple):
    """Where an allocation was made."""

    op: str
    """`aten.mm`; a function's name where no frame of C++ names an op; empty if nothing does."""
    source: str
    """`folder/file.py:12`, the first line outside of installed libraries; where there is none, as `inner`."""
    library: str
    """The innermost line of torch that is not the user's, `nn/functional.py:3458 in cross_entropy`."""
    phase: str
    """`forward`, `backward`, `update` of gradients, `optimizer`; empty outside any, and where there are no frames."""
    node: str
    """Of autograd, in a backward: `MmBackward0`."""
    kind: str
    """`tensor`, `raw` for memory that an op asks for without a tensor, `library` for a library's own workspace, `model`
    for a module that is made or moved."""
    inner: str = ""
    """The first line that is neither torch's nor Python's own: a library's that calls torch, or the user's; empty if
    there is none."""


NOWHERE = Site("", "", "", "", "", "tensor")


class Frame(NamedTuple):
    """A frame of a stack, and what it says by itself. Many stacks share it."""

    file: str
    name: str
    line: Any
    python: bool
    library: bool
    """Whether it is torch's or Python's own."""
    users: bool
    """Whether it is neither a library's nor installed."""
    phase: str
    """Of torch's own frames of Python: `backward`, `update`, `optimizer`; `forward` of a module's call; else empty."""


def frame_of(told: Mapping[str, Any]) -> Frame:
    """A frame as torch has it."""
    file, name = str(told.get("filename") or ""), demangled(str(told.get("name") or ""))
    python, library = _is_python(file), _is_library(file)
    phase = _phase_of(file, name) if python else ""
    return Frame(file, name, told.get("line", 0), python, library, not (library or _is_installed(file)), phase)


def site(frames: Iterable[Mapping[str, Any]]) -> Site:
    """What a stack says, given innermost first."""
    return site_of([frame_of(told) for told in frames])


def site_of(frames: Sequence[Frame]) -> Site:
    """What a stack says, given innermost first."""
    script = [frame for frame in frames if frame.python]
    native = [frame.name for frame in frames if not frame.python]
    inner = next((frame for frame in script if not frame.library), None)
    users = next((frame for frame in script if frame.users), inner)
    phase, node = _phase(script, native), next((m[1] for name in native if (m := _NODE.match(name))), "")
    op = _op(native)
    return Site(
        f"aten.{op}" if op else _function(script, inner), _shown(users) if users else "", _library(script), phase,
        node, _kind(script, native, phase), _shown(inner) if inner else "",
    )  # fmt: skip


@functools.lru_cache(maxsize=65536)
def _is_python(file: str) -> bool:
    return file.endswith(".py") or (file.startswith("<") and file.endswith(">"))


@functools.lru_cache(maxsize=65536)
def _is_installed(file: str) -> bool:
    return _INSTALLED.search(file) is not None


@functools.lru_cache(maxsize=65536)
def _is_library(file: str) -> bool:
    return _TORCH.search(file) is not None or _STANDARD.search(file) is not None


def _shown(frame: Frame) -> str:
    return f"{_tail(frame.file)}:{frame.line}"


def _library(script: Sequence[Frame]) -> str:
    return f"{_shown(script[0])} in {script[0].name}" if script and script[0].library else ""


@functools.lru_cache(maxsize=65536)
def _tail(file: str) -> str:
    """The folder and the name."""
    return "/".join(re.split(r"[/\\]", file)[-2:])


def _function(script: Sequence[Frame], inner: Frame | None) -> str:
    """The function of torch that was called, if it has a name that says more than `forward`; else whose line it is."""
    for frame in script:
        if frame.name == "forward" and _NN.search(frame.file):
            return _tail(frame.file).rpartition("/")[2].removesuffix(".py")
        if frame.library and frame.name not in _MODULE_CALL and not frame.name.startswith("<"):
            return frame.name
        if inner is not None and frame[:2] == inner[:2]:
            break
    return inner.name if inner else ""


def _op(native: list[str]) -> str:
    """The op as a dispatch mode sees it: the outermost that is no mere composition of others."""
    seen = [(place, m[1], m[2]) for place, name in enumerate(native) if (m := _OP.match(name))]
    for number in range(len(seen) - 1, -1, -1):
        place, name, how = seen[number]
        inside = native[seen[number - 1][0] + 1 : place] if number else native[:place]
        if how == "redispatch" or (number and seen[number - 1][1:] == (name, "redispatch")):
            return _OVERLOAD.sub("", name)
        plain = _OVERLOAD.sub("", name)
        composed = bool(number) and plain in COMPOSED
        if not composed and not any(map(_ABOVE.search, inside)) and not _asks_others(plain, seen[:number], inside):
            return plain
    return ""


def _asks_others(name: str, below: Sequence[tuple[int, str, str]], inside: Iterable[str]) -> bool:
    """Whether autograd's kernel of an op calls another op before its own: a copy of what an op in place is about to
    change (`original_self`, tools/autograd/gen_variable_type.py), which is an op of its own below autograd. Autograd's
    kernels are not exported, so `dladdr` does not name them (torch/csrc/profiler/unwind/unwind.cpp)."""
    if not below or below[-1][2] != "call":
        return False
    copies = name.endswith("_") and below[-1][1] == "clone"
    return copies or any("torch::autograd::VariableType::" in one for one in inside)


def _phase_of(file: str, name: str) -> str:
    """What a frame of Python says."""
    if name == "_call_impl" and file.endswith("module.py"):
        return "forward"
    if "torch" in file:
        if re.search(r"[\\/]torch[\\/]nn[\\/]utils[\\/]clip_grad\.py$", file):
            return "update"
        if re.search(r"[\\/]torch[\\/]autograd[\\/](graph|__init__)\.py$", file) and "backward" in name:
            return "backward"
        if re.search(r"[\\/]torch[\\/]optim[\\/]", file) and name != "zero_grad":
            return "optimizer"
    return ""


def _phase(script: Sequence[Frame], native: Sequence[str]) -> str:
    if any("torch::autograd::Engine::" in name for name in native):
        return "backward"
    said = [frame.phase for frame in script if frame.phase]
    above = next((phase for phase in said if phase != "forward"), "")
    if above:
        return above
    if any("at::_ops::_foreach_" in name or "at::_ops::_fused_" in name for name in native):
        return "optimizer"
    if said or (not script and any("torch::autograd::VariableType" in name for name in native[:-1])):
        return "forward"
    return ""


def _kind(script: Sequence[Frame], native: Sequence[str], phase: str) -> str:
    if any(map(_LIBRARY.search, native)):
        return "library"
    if native and not any(map(_OUTPUT.search, native)) and any("CachingAllocator" in name for name in native):
        return "raw"
    made = any(frame.name in _MAKES and frame.library and _NN.search(frame.file) for frame in script)
    return "model" if made and not phase else "tensor"
