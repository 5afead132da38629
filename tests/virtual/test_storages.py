"""What storages on the device hold, where they are, and how they change: bytes as the card would count them."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import memgraph
from memgraph.errors import InvariantError

M = 2**20
CUDA = "cuda"
Script = Callable[[], Any]


def live() -> int:
    return int(torch.cuda.memory_stats()["requested_bytes.all.current"])


def ones(*shape: int) -> Tensor:
    return torch.ones(*shape, device=CUDA)


def out(function: Callable[..., Any], *shape: int) -> Script:
    """What `function` writes into an empty tensor, or into one of this shape."""

    def run() -> Any:
        made = torch.empty(*(shape or (0,)), device=CUDA)
        function(ones(64, 64), made)
        return made

    return run


def resized(first: int, then: int) -> Script:
    return lambda: torch.empty(first, device=CUDA).resize_(then)


def storage_resized(*sizes: int) -> Script:
    def run() -> Tensor:
        made = torch.empty(M, device=CUDA)
        for size in sizes:
            made.untyped_storage().resize_(size)
        return made

    return run


def set_to(kept: Callable[[Tensor, Tensor], object]) -> Script:
    def run() -> Tensor:
        source, target = ones(1024, 1024), ones(2)
        kept(target, source)
        return target

    return run


CASES: dict[str, tuple[Script, int]] = {
    # out= makes what it is given as large as it must be: 64 x 64 floats are 16,384 bytes
    "add": (out(lambda a, o: torch.add(a, a, out=o)), 16384),
    "cat": (out(lambda a, o: torch.cat([a, a], out=o)), 2 * 16384),
    "stack": (out(lambda a, o: torch.stack([a, a], out=o)), 2 * 16384),
    "sum": (out(lambda a, o: torch.sum(a, 0, out=o)), 256),
    "index_select": (out(lambda a, o: torch.index_select(a, 0, torch.arange(10, device=CUDA), out=o)), 2560),
    "arange": (out(lambda a, o: torch.arange(1000, out=o)), 4000),
    "randn": (out(lambda a, o: torch.randn(1000, out=o)), 4000),
    "sqrt": (out(lambda a, o: torch.sqrt(a, out=o)), 16384),
    "where it fits": (out(lambda a, o: torch.add(a, a, out=o), 64, 64), 16384),
    "where it is larger": (out(lambda a, o: torch.sum(a, 0, out=o), 64, 64), 16384),  # a storage never shrinks by it
    "clamp": (out(lambda a, o: torch.clamp(a, 0, 1, out=o)), 16384),
    # resize_ grows, and never shrinks
    "resize from nothing": (resized(0, M), 4 * M),
    "resize larger": (resized(4, M), 4 * M),
    "resize smaller": (resized(M, 4), 4 * M),
    "resize_as_": (lambda: torch.empty(0, device=CUDA).resize_as_(ones(2, 2).expand(M, 2, 2)[:, 0, 0]), 4 * M),
    # a storage's own resize_ goes both ways
    "storage freed": (storage_resized(0), 0),
    "storage freed and back": (storage_resized(0, 4 * M), 4 * M),
    "storage smaller": (storage_resized(M), M),
    "storage larger": (storage_resized(8 * M), 8 * M),
    "typed storage": (lambda: _typed_resized(), 0),
    # one storage for another
    "data": (set_to(lambda t, s: setattr(t, "data", s)), 4 * M),
    "set_": (set_to(lambda t, s: t.set_(s)), 4 * M),
    "set_ of a storage": (set_to(lambda t, s: t.set_(s.untyped_storage(), 0, (3,), (1,))), 4 * M),
    "swap_tensors": (set_to(lambda t, s: torch.utils.swap_tensors(t, s)), 4 * M),
    "a view keeps its base": (lambda: ones(1024, 1024)[0, :1], 4 * M),
    # storages and tensors by their old names
    "UntypedStorage": (lambda: torch.UntypedStorage(4 * M, device=CUDA), 4 * M),
    "UntypedStorage of values": (lambda: torch.UntypedStorage([1, 2, 3], device="cuda:0"), 3),
    "FloatStorage.cuda": (lambda: torch.FloatStorage(1024).cuda(), 4096),
    "cuda.FloatStorage": (lambda: torch.cuda.FloatStorage(1024), 4096),  # type: ignore[attr-defined]
    "a storage's copy": (lambda: torch.ones(1024).untyped_storage().cuda(), 4096),
    "cuda.FloatTensor": (lambda: torch.cuda.FloatTensor(4096), 16384),
    "of two sizes": (lambda: torch.cuda.HalfTensor(64, 64), 8192),
    "of values": (lambda: torch.cuda.LongTensor([1, 2]), 16),
    "of nothing": (lambda: torch.cuda.FloatTensor(), 0),
    "type": (lambda: torch.ones(4096).type(torch.cuda.HalfTensor), 8192),
    "type by name": (lambda: torch.ones(4096).type("torch.cuda.FloatTensor"), 16384),
    # copies
    "pickle": (lambda: [(t := ones(4096)), pickle.loads(pickle.dumps(t))], 2 * 16384),
    "dlpack": (lambda: torch.from_dlpack(ones(4096)), 16384),
    "dlpack's capsule": (lambda: torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(ones(4096))), 16384),
    "deepcopy": (lambda: [(m := nn.Linear(64, 64).cuda()), copy.deepcopy(m)], 2 * (16384 + 256)),
}


def _typed_resized() -> Tensor:
    made = ones(1024)
    made._typed_storage()._resize_(0)  # as FSDP frees what it gathered
    return made


@pytest.mark.parametrize(("script", "expected"), CASES.values(), ids=list(CASES))
def test_bytes_live(script: Script, expected: int) -> None:
    for _ in range(2):  # what was remembered of a call holds too
        with memgraph.virtual_gpu("rtx3090") as gpu, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kept = [script(), script()]
            gc.collect()
            gpu.recorder.storages.check()
            assert live() == 2 * expected
            del kept
        gpu.trace.self_check()


def test_a_larger_storage_is_there_before_the_old_one_goes() -> None:
    with memgraph.virtual_gpu("rtx3090"):
        made = torch.empty(M, device=CUDA)
        made.resize_(2 * M)
        assert torch.cuda.max_memory_allocated() == (4 + 8) * M
        assert torch.cuda.memory_allocated() == 8 * M


def test_what_is_written_is_no_longer_what_was_known() -> None:
    with memgraph.virtual_gpu("rtx3090") as gpu:
        unknown = torch.randn(1, device=CUDA)
        known = torch.zeros(1, device=CUDA)
        torch.add(unknown, 1, out=known)
        known.item()
    assert len(gpu.trace.assumptions) == 1


def test_addresses_are_those_of_the_blocks() -> None:
    with memgraph.virtual_gpu("rtx3090"):
        large, small = ones(1024, 1024), ones(3)
        blocks = {b["address"] for s in torch.cuda.memory_snapshot() for b in s["blocks"] if b["requested_size"]}
        assert {large.data_ptr(), small.untyped_storage().data_ptr()} == blocks
        assert large[1:].data_ptr() == large.data_ptr() + 4096
        assert large[1:].untyped_storage().data_ptr() == large.storage().data_ptr() == large.data_ptr()
        assert large[:0].data_ptr() == torch.empty(0, device=CUDA).data_ptr() == 0
        assert large.__cuda_array_interface__["data"] == (large.data_ptr(), False)
        for _ in range(3):  # a second result of one op has one too
            assert nn.Linear(3, 3).to(CUDA).weight.data_ptr() in _addresses()


def _addresses() -> set[int]:
    return {b["address"] for s in torch.cuda.memory_snapshot() for b in s["blocks"]}


def test_large_host_tensors_without_values_have_addresses_of_their_own() -> None:
    with memgraph.virtual_gpu("rtx3090"):
        layers = [nn.Linear(1024, 1024) for _ in range(3)]
        starts = sorted(layer.weight.data_ptr() for layer in layers)
        assert all(later - earlier >= 4 * M for earlier, later in itertools.pairwise(starts))
        assert layers[0].weight.data_ptr() == layers[0].weight.untyped_storage().data_ptr()
        assert layers[0].weight.untyped_storage().device == torch.device("cpu")


def test_a_storage_says_where_it_is() -> None:
    with memgraph.virtual_gpu("rtx3090"):
        storage = ones(8).untyped_storage()
        assert (storage.device, storage.is_cuda, storage.nbytes()) == (torch.device("cuda:0"), True, 32)
        assert ones(8).is_shared()
    assert torch.ones(8).untyped_storage().device == torch.device("cpu")
    assert torch.UntypedStorage(8).nbytes() == 8


def test_a_storage_of_the_host_can_be_filled_and_shown() -> None:
    """As checkpoints are staged (torch/distributed/checkpoint/_state_dict_stager.py)."""
    with memgraph.virtual_gpu("rtx3090"):
        whole, storage = ones(64, 64), torch.UntypedStorage(64 * 64 * 4)
        storage.copy_(whole.untyped_storage())
        one, other = (whole.new_empty([], device="cpu").set_(storage, 0, (64, 64), (64, 1)) for _ in range(2))
        assert one.device == torch.device("cpu") and one.untyped_storage().nbytes() == storage.nbytes()
        assert one.data_ptr() == other.data_ptr()
        assert live() == 64 * 64 * 4


def test_old_types_are_asked() -> None:
    with memgraph.virtual_gpu("rtx3090"):
        assert isinstance(ones(1), torch.cuda.FloatTensor)
        assert not isinstance(ones(1), torch.cuda.HalfTensor)
        assert not isinstance(torch.ones(1), torch.cuda.FloatTensor)
        assert torch.cuda.FloatTensor([[1, 2]]).shape == (1, 2)
        torch.set_default_tensor_type(torch.cuda.HalfTensor)  # type: ignore[no-untyped-call]
        assert torch.zeros(2).type() == "torch.cuda.HalfTensor"
        torch.set_default_tensor_type("torch.FloatTensor")  # type: ignore[no-untyped-call]
        assert torch.zeros(2).type() == "torch.FloatTensor"
        torch.set_default_tensor_type("torch.cuda.FloatTensor")  # type: ignore[no-untyped-call]
    assert torch.zeros(2).type() == "torch.FloatTensor"


def test_a_storage_that_the_ledger_does_not_follow_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memgraph.capture.storages.Storages.resized", lambda *_: None)
    with memgraph.virtual_gpu("rtx3090"):
        weight = nn.Parameter(ones(8))
        optimizer = torch.optim.SGD([weight], lr=1)
        weight.untyped_storage().resize_(4 * M)
        with pytest.raises(InvariantError, match="4,194,304 bytes stands in the ledger with 32"):
            optimizer.step()


def test_each_op_is_checked_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memgraph.capture.recorder._CHECK_EACH_OP", True)
    monkeypatch.setattr("memgraph.capture.storages.Storages.resized", lambda *_: None)
    with memgraph.virtual_gpu("rtx3090"):
        made = ones(8)
        made.untyped_storage().resize_(4 * M)
        with pytest.raises(InvariantError):
            ones(1)
