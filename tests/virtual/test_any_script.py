"""Ordinary training code of many kinds, as it is, on a virtual GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import memgraph
from memgraph.errors import MemgraphError


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, count: int = 2) -> None:
    for _ in range(count):
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def device_context() -> None:
    with torch.device("cuda"):
        model, x = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)), torch.randn(4, 8)
    assert x.is_cuda and model[0].weight.is_cuda
    steps(model, torch.optim.Adam(model.parameters(), fused=True), x)


def default_device() -> None:
    torch.set_default_device("cuda")
    try:
        model, x = nn.Linear(8, 8), torch.randn(4, 8, generator=torch.Generator("cuda").manual_seed(0))
        steps(model, torch.optim.Adafactor(model.parameters()), x)
    finally:
        torch.set_default_device(None)


def pinned_loaders() -> None:
    data = TensorDataset(torch.randn(20, 8), torch.randint(0, 3, (20,)))
    model = nn.Linear(8, 3).cuda()
    for workers in (0, 1):
        for x, y in DataLoader(data, batch_size=5, shuffle=True, pin_memory=True, num_workers=workers):
            F.cross_entropy(model(x.cuda(non_blocking=True)), y.to("cuda", non_blocking=True)).backward()


def data_assigned() -> None:
    model = nn.Linear(8, 8)
    for parameter in model.parameters():
        parameter.data = parameter.data.to("cuda")
    assert model.weight.is_cuda and isinstance(model.weight, nn.Parameter)
    steps(model, torch.optim.SGD(model.parameters(), 0.1), torch.randn(4, 8, device="cuda"))


def data_parallel() -> None:
    nn.DataParallel(nn.Linear(8, 8).cuda())(torch.randn(4, 8, device="cuda")).sum().backward()


def saved_on_the_host() -> None:
    model, x = nn.Linear(8, 8).cuda(), torch.randn(2, 8, device="cuda", requires_grad=True)
    with torch.autograd.graph.save_on_cpu(pin_memory=True):
        y = model(x).tanh().sum()
    y.backward()


def lists_of_tensors() -> None:
    losses = [torch.randn(3, device="cuda").sum() for _ in range(3)]
    assert torch.tensor(losses).shape == torch.tensor([losses, losses], device="cuda").shape[1:] == (3,)


def schedules_and_averages() -> None:
    model = nn.Linear(8, 8).cuda()
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    for _ in range(2):
        loss = model(torch.randn(4, 8, device="cuda")).mean()
        loss.backward()
        optimizer.step()
        cosine.step()
        plateau.step(loss)
        average.update_parameters(model)
        model.eval()
        with torch.no_grad():
            assert (model(torch.randn(4, 8, device="cuda")).argmax(-1) == 0).float().mean().item() == 1.0
        model.train()


def checked_values() -> None:
    loss = torch.randn(4, device="cuda").square().mean()
    assert torch.isfinite(loss)
    assert loss > 0
    assert not torch.isnan(loss).any()
    assert f"{loss:.2f}" == "1.00"


def complex_and_narrow() -> None:
    x = torch.randn(4, 4, dtype=torch.complex64, device="cuda", requires_grad=True)
    (x @ x.mH).abs().sum().backward()
    assert torch.randn(16, 16, device="cuda").to(torch.float8_e4m3fn).to(torch.bfloat16).dtype is torch.bfloat16


def jagged() -> None:
    parts = [torch.randn(3, 2, 8), torch.randn(5, 2, 8)]
    x = torch.nested.nested_tensor(parts, layout=torch.jagged, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    q = x.transpose(1, 2)
    F.scaled_dot_product_attention(q, q, q).transpose(1, 2).values().sum().backward()


def transformer_inference() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).cuda().eval()
    x, padding = torch.randn(2, 5, 16, device="cuda"), torch.zeros(2, 5, dtype=torch.bool, device="cuda")
    with torch.no_grad():
        assert layer(x).shape == layer(x, src_key_padding_mask=padding).shape == x.shape


def events_streams_and_ranges() -> None:
    start, stream = torch.cuda.Event(enable_timing=True), torch.cuda.Stream()
    start.record()
    with torch.cuda.stream(stream), torch.cuda.device(0), torch.cuda.nvtx.range("step"):
        torch.zeros(3, device="cuda").record_stream(stream)
    torch.cuda.current_stream().wait_stream(stream)
    assert start.elapsed_time(start) == 0.0
    assert "Allocated memory" in torch.cuda.memory_summary()
    assert torch.accelerator.current_accelerator() == torch.device("cuda")


SCRIPTS: list[Callable[[], None]] = [
    device_context, default_device, pinned_loaders, data_assigned, data_parallel, saved_on_the_host, lists_of_tensors,
    schedules_and_averages, checked_values, complex_and_narrow, jagged, transformer_inference,
    events_streams_and_ranges,
]  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_it_runs(script: Callable[[], None]) -> None:
    with memgraph.virtual_gpu("h100") as gpu:
        script()
    gpu.trace.self_check()


# Loops that wait for a value.


def test_a_loop_that_waits_for_a_loss_ends() -> None:
    with memgraph.virtual_gpu("h100") as gpu:
        loss, turns = torch.randn(3, device="cuda").sum(), 0
        while loss.item() > 0.1:
            loss, turns = loss * 0.5, turns + 1
    assert turns == 999
    assert any("is taken to be 1e-09" in text for text in gpu.trace.assumptions)


def test_a_loop_that_waits_for_more_ends_too() -> None:
    with memgraph.virtual_gpu("h100"):
        x, turns = torch.randn(3, device="cuda").sum(), 0
        while x.item() < 5:
            x, turns = x * 2, turns + 1
    assert turns == 1999


def test_a_loop_that_nothing_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memgraph.virtual.values.assumed.ENOUGH", 2000)

    def approach() -> None:
        x = torch.randn(3, device="cuda").sum()
        while abs(x.item() - 0.5) > 0.01:
            x = x * 1.1

    with memgraph.virtual_gpu("h100"), pytest.raises(MemgraphError, match=r"asked for 2,000 times at .*: a loop that"):
        approach()


# Ops of one's own.


def test_a_custom_op_with_a_fake_kernel_works_and_is_listed() -> None:
    library = torch.library.Library("memgraph_test", "FRAGMENT")
    library.define("scale(Tensor x) -> Tensor")
    torch.library.register_fake("memgraph_test::scale", lambda x: torch.empty_like(x), lib=library)
    with memgraph.virtual_gpu("h100") as gpu:
        assert torch.ops.memgraph_test.scale(torch.zeros(5, device="cuda")).shape == (5,)
    assert gpu.trace.unknown_ops == ("memgraph_test.scale.default",)
    assert gpu.trace.peak.requested == 40


def test_one_without_says_how_to_add_it() -> None:
    library = torch.library.Library("memgraph_test", "FRAGMENT")
    library.define("bare(Tensor x) -> Tensor")
    with memgraph.virtual_gpu("h100"), pytest.raises(MemgraphError) as refused:
        torch.ops.memgraph_test.bare(torch.zeros(5, device="cuda"))
    assert 'torch.library.register_fake("memgraph_test::bare")' in str(refused.value)
    assert "virtual/test_any_script.py:" in str(refused.value)


def test_one_that_only_writes_is_listed() -> None:
    library = torch.library.Library("memgraph_test", "FRAGMENT")
    library.define("write(Tensor(a!) x) -> ()")
    torch.library.register_fake("memgraph_test::write", lambda x: None, lib=library)
    with memgraph.virtual_gpu("h100") as gpu:
        torch.ops.memgraph_test.write(torch.zeros(5, device="cuda"))
    assert gpu.trace.unknown_ops == ("memgraph_test.write.default",)


# Statistics.


def test_statistics_count_blocks_of_each_pool() -> None:
    """1000 bytes are a block of 1024 in a small segment of 2 MiB; 3 MiB one in a large segment of 20."""
    with memgraph.virtual_gpu("h100"):
        held: list[Any] = [torch.zeros(250, device="cuda"), torch.zeros(3 * 2**18, device="cuda")]
        stats = torch.cuda.memory_stats()
        pools = [stats[f"allocated_bytes.{pool}.current"] for pool in ("all", "small_pool", "large_pool")]
        assert pools == [1024 + 3 * 2**20, 1024, 3 * 2**20]
        assert (stats["segment.all.current"], stats["allocation.all.current"]) == (2, 2)
        assert stats["inactive_split_bytes.all.current"] == (2 * 2**20 - 1024) + 17 * 2**20
        assert torch.cuda.memory_stats_as_nested_dict()["segment"]["large_pool"]["current"] == 1
        assert [segment["total_size"] for segment in torch.cuda.memory_snapshot()].count(2 * 2**20) == 1
        held.clear()
