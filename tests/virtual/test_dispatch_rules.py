"""Rules for an op under a dispatch mode are found as torch finds them, and torch is as it was afterwards."""

from __future__ import annotations

from typing import Any

import torch
from torch._library.simple_registry import find_torch_dispatch_rule, singleton
from torch.utils._python_dispatch import TorchDispatchMode

import memgraph

NAME = "memgraph_test_rules::twice"


@torch.library.custom_op(NAME, mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@twice.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_a_rule_of_a_script_is_found() -> None:
    seen = []

    def rule(_mode: Any, func: Any, _types: Any, args: Any, _kwargs: Any) -> Any:
        seen.append(str(func))
        return func(*args)

    with memgraph.virtual_gpu("h100"):
        x = torch.empty(4, device="cuda")
        with Watching():
            twice(x)
            torch.library.register_torch_dispatch(NAME, Watching, rule)  # after the op was asked for once
            assert twice(x).shape == (4,)
    assert seen == [f"{NAME.replace('::', '.')}.default"]


def test_torch_is_as_it_was() -> None:
    with memgraph.virtual_gpu("h100"):
        assert "find" in vars(singleton)
        torch.empty(2, device="cuda").add(1)
        entry = singleton.find("aten::add.Tensor")
        assert find_torch_dispatch_rule(torch.ops.aten.add.Tensor, Watching) is None
    assert "find" not in vars(singleton)
    assert "find" not in vars(entry.torch_dispatch_rules)
    assert singleton.find("aten::add.Tensor") is entry
