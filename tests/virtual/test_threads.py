"""Device work from threads other than the one that opened the virtual GPU."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

import memgraph

HERE = "virtual/test_threads.py"


def live() -> int:
    return int(torch.cuda.memory_stats()["requested_bytes.all.current"])


def test_a_pool_moves_tensors_to_the_device() -> None:
    with memgraph.virtual_gpu("rtx3090") as gpu, ThreadPoolExecutor(4) as pool:
        moved = list(pool.map(lambda n: torch.zeros(n).to(device="cuda", dtype=torch.bfloat16), range(1, 21)))
        assert live() == sum(2 * n for n in range(1, 21))
        del moved
        assert live() == 0
    assert {op.source.partition(":")[0] for op in gpu.trace.ops} == {HERE}


def test_pools_of_multiprocessing_and_plain_threads() -> None:
    kept: list[torch.Tensor] = []
    with memgraph.virtual_gpu("rtx3090"):
        with ThreadPool(2) as pool:
            assert pool.map(lambda n: torch.ones(n, device="cuda").sum().shape, range(1, 4)) == [torch.Size([])] * 3
        thread = threading.Thread(target=lambda: kept.append(torch.ones(8, device="cuda")))
        thread.start()
        thread.join()
        assert live() == 8 * 4


def test_several_train_at_once_and_each_gradient_is_its_modules() -> None:
    def train(width: int) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.ReLU(), torch.nn.Linear(width, 1)).cuda()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
        for _ in range(20):
            model(torch.randn(4, 8, device="cuda")).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    with memgraph.virtual_gpu("rtx3090") as gpu:
        threads = [threading.Thread(target=train, args=(width,)) for width in (16, 32, 64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    trace = gpu.trace
    trace.self_check()
    backward = [op for op in trace.ops if op.name == "aten.threshold_backward.default"]
    assert len(backward) == 3 * 20
    for op in backward:
        assert (trace.ops[op.forward].name, op.module) == ("aten.relu.default", "1")
        assert trace.ops[op.forward].outputs[0].shape == op.outputs[0].shape


def test_what_another_thread_fetches_meanwhile_ends_no_backward() -> None:
    started, fetched = threading.Event(), threading.Event()

    def fetch() -> None:
        started.wait()
        torch.zeros(8).to("cuda")
        fetched.set()

    def wait(gradient: torch.Tensor) -> None:
        started.set()
        fetched.wait()

    with memgraph.virtual_gpu("rtx3090") as gpu:
        thread = threading.Thread(target=fetch)
        thread.start()
        model = torch.nn.Linear(8, 8).cuda()
        hidden = model(torch.zeros(8, 8, device="cuda"))
        hidden.register_hook(wait)
        hidden.sum().backward()
        thread.join()
    assert [phase.name for phase in gpu.trace.phases] == ["load", "input", "forward", "backward"]


def test_a_loader_with_a_pinning_thread() -> None:
    with memgraph.virtual_gpu("rtx3090"):
        loader = DataLoader(TensorDataset(torch.arange(8)), batch_size=4, pin_memory=True, num_workers=1)
        assert [batch.to("cuda", non_blocking=True).tolist() for (batch,) in loader] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_thread_that_outlives_the_virtual_gpu_computes_for_real() -> None:
    closed = threading.Event()
    results: list[float] = []

    def work() -> None:
        closed.wait()
        results.append((torch.ones(3) + 1).sum().item())

    with memgraph.virtual_gpu("rtx3090"):
        thread = threading.Thread(target=work)
        thread.start()
    closed.set()
    thread.join()
    assert results == [6.0]


def test_numbers_become_tensors_of_the_device_in_any_thread() -> None:
    """torch keeps by thread that `torch.tensor(x, device="cuda")` goes through the dispatcher."""
    made: list[torch.Tensor] = []

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: object, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

        @staticmethod
        def backward(_ctx: object, gradient: torch.Tensor) -> torch.Tensor:  # in autograd's thread
            made.append(torch.tensor([1, 2], device=gradient.device))
            made.append(gradient.new_tensor([1.0]))
            return 2 * gradient

    with memgraph.virtual_gpu("rtx3090"), ThreadPoolExecutor(1) as pool:
        before = torch._C._only_lift_cpu_tensors()
        Doubled.apply(torch.ones(3, device="cuda", requires_grad=True)).sum().backward()
        made.append(pool.submit(lambda: torch.tensor(1.0, device="cuda")).result())
        assert {tensor.device.type for tensor in made} == {"cuda"} and len(made) == 3
        assert before
    assert not torch._C._only_lift_cpu_tensors()


def test_a_state_of_the_generator_that_was_loaded_onto_the_device(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    with memgraph.virtual_gpu("rtx3090"):
        torch.save({"rng": torch.get_rng_state()}, tmp_path / "state.pt")
        saved = torch.load(tmp_path / "state.pt", map_location="cuda")
        torch.set_rng_state(saved["rng"].cpu())
        torch.Generator().set_state(saved["rng"].cpu())
        torch.set_rng_state(before)
    assert torch.equal(torch.get_rng_state(), before)
