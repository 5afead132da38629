"""Calls of single ops: each case is a function that makes its inputs and returns the call to be measured."""

from __future__ import annotations

import itertools

import torch

D = "cuda"
CASES = {}
f32, f64, bf16, f16, c64 = torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64


def case(name, **axes):
    """Register a function for each combination of its axes."""

    def register(make):
        for values in itertools.product(*axes.values()):
            label = " ".join([name, *(str(v).removeprefix("torch.").replace(" ", "") for v in values)])
            CASES[label] = lambda make=make, values=values: make(*values)
        return make

    return register


def make(shape, dtype=f32, grad=False):
    return torch.randn(shape, device=D, dtype=dtype).requires_grad_(grad)


def spd(shape, dtype=f32, grad=False):
    """Symmetric positive definite."""
    n = shape[-1]
    a = torch.randn(shape, device=D, dtype=dtype)
    a = a @ a.mT + n * torch.eye(n, device=D, dtype=dtype)
    return a.detach().requires_grad_(grad)


def square_op(name, call, shapes, dtypes=(f32, f64), source=make):
    @case(name, shape=shapes, dtype=dtypes)
    def build(shape, dtype):
        a = source(shape, dtype)
        return lambda: call(a)


def train(call, *leaves):
    """Forward and backward, gradients dropped."""

    def step():
        out = call()
        outs = [o for o in (out if isinstance(out, (tuple, list)) else (out,)) if o.requires_grad]
        torch.autograd.grad(outs, leaves, [torch.ones_like(o) for o in outs], allow_unused=True)

    return step
