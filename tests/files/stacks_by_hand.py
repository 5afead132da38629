"""Stacks as torch's history writes them, by their frames alone."""

from __future__ import annotations

from typing import Any

TORCH = "/usr/lib/python3/dist-packages/torch"
USER = "/home/me/train.py"


def python(*rows: tuple[str, str, int]) -> list[dict[str, Any]]:
    """Frames of Python, innermost first: file, function, line."""
    return [{"filename": file, "name": name, "line": line} for file, name, line in rows]


def native(*names: str) -> list[dict[str, Any]]:
    """Frames of C++, innermost first."""
    return [{"filename": "??", "name": name, "line": 0} for name in names]


ALLOCATE = native(
    "c10::cuda::CUDACachingAllocator::Native::NativeCachingAllocator::allocate(unsigned long)",
    "at::detail::empty_generic(c10::ArrayRef<long>, c10::Allocator*)",
    "at::detail::empty_cuda(c10::ArrayRef<long>)",
)
"""How every tensor's bytes are asked for."""


def called(name: str) -> list[dict[str, Any]]:
    """An op that autograd sees."""
    return native(
        f"at::_ops::{name}::redispatch(c10::DispatchKeySet, at::Tensor const&)",
        f"torch::autograd::VariableType::(anonymous namespace)::{name}(c10::DispatchKeySet, at::Tensor const&)",
        f"at::_ops::{name}::call(at::Tensor const&)",
    )


def composed(name: str) -> list[dict[str, Any]]:
    """An op that is made of others."""
    return native(
        f"at::native::{name}(at::Tensor const&)",
        "c10::impl::wrap_kernel_functor_unboxed_<&at::(anonymous namespace)::wrapper_CompositeImplicitAutograd__"
        f"{name}>::call(c10::OperatorKernel*)",
        f"at::_ops::{name}::call(at::Tensor const&)",
    )


ENGINE = native(
    "torch::autograd::Node::operator()(std::vector<at::Tensor>&&)",
    "torch::autograd::Engine::evaluate_function(std::shared_ptr<torch::autograd::GraphTask>&)",
    "torch::autograd::Engine::thread_main(std::shared_ptr<torch::autograd::GraphTask> const&)",
)
IN_MODULE = python((f"{TORCH}/nn/modules/linear.py", "forward", 134),
                   (f"{TORCH}/nn/modules/module.py", "_call_impl", 1789), (USER, "step", 12))  # fmt: skip
