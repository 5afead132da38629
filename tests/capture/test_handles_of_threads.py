"""A thread's cuBLAS handle, and with it the workspaces, goes to the next thread that multiplies after its end.

Measured on an H200 with torch 2.11: a thread that trains, then the same in the main thread: 2 workspaces of 32 MiB (the
thread's, then the main thread's; autograd's), and one of 1 MiB for cuBLASLt.
"""

from __future__ import annotations

import threading

import torch

import memgraph
from memgraph.trace import Role, Trace

WORKSPACE, LT = 32 * 2**20, 2**20


def _train() -> None:
    model = torch.nn.Linear(64, 64).cuda()
    model(torch.zeros(8, 64, device="cuda")).square().mean().backward()


def _in_a_thread() -> None:
    thread = threading.Thread(target=_train)
    thread.start()
    thread.join()


def _workspaces(trace: Trace) -> list[int]:
    return sorted(buffer.size for buffer in trace.buffers if buffer.role is Role.LIBRARY)


def test_the_main_thread_takes_the_handle_of_one_that_ended() -> None:
    with memgraph.virtual_gpu("h200", torch="2.11") as gpu:
        _in_a_thread()
        _train()
    assert _workspaces(gpu.trace) == [LT, WORKSPACE, WORKSPACE]


def test_threads_after_one_another_share_one() -> None:
    with memgraph.virtual_gpu("h200", torch="2.11") as gpu:
        for _ in range(3):
            _in_a_thread()
    assert _workspaces(gpu.trace) == [LT, WORKSPACE, WORKSPACE]


def test_a_thread_beside_one_that_lives_has_its_own() -> None:
    with memgraph.virtual_gpu("h200", torch="2.11") as gpu:
        _train()
        _in_a_thread()  # the main thread keeps its own
        _train()
    assert _workspaces(gpu.trace) == [LT, LT, WORKSPACE, WORKSPACE, WORKSPACE]
