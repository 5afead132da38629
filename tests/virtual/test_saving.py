"""`torch.save` and `torch.load` on the virtual GPU: what comes back lies as it lay, and takes what it took."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

import memgraph
from memgraph.virtual.saving import Places


def test_a_saved_state_comes_back_where_it_was_or_where_it_is_wanted() -> None:
    """300 floats are 1200 bytes, on the device once more if they are loaded there."""
    with memgraph.virtual_gpu("h100") as gpu:
        file = io.BytesIO()
        torch.save({"weight": torch.zeros(300, device="cuda"), "epoch": 3}, file)
        for place, more in ((None, 1200), ("cpu", 0), ("cuda:0", 1200), ({"cuda:0": "cpu"}, 0)):
            file.seek(0)
            before = gpu.ledger.allocator.requested
            state = torch.load(file, map_location=place)
            assert (state["epoch"], state["weight"].shape) == (3, (300,))
            assert gpu.ledger.allocator.requested - before == more
            del state


def test_a_real_file_takes_memory_only_where_it_is_loaded_to(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(5), "b": torch.zeros(300)}, tmp_path / "real.pt")
    with memgraph.virtual_gpu("h100") as gpu:
        host = torch.load(tmp_path / "real.pt")
        assert (host["a"].tolist(), gpu.ledger.allocator.requested) == ([0, 1, 2, 3, 4], 0)
        there = torch.load(tmp_path / "real.pt", map_location="cuda")
        assert (there["a"].tolist(), gpu.ledger.allocator.requested) == ([0, 1, 2, 3, 4], 5 * 8 + 1200)


def test_tied_weights_and_modules_come_back() -> None:
    with memgraph.virtual_gpu("h100") as gpu:
        model = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)]).cuda()
        model[1].weight = model[0].weight
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        before = gpu.ledger.allocator.requested
        again = torch.load(file, weights_only=False)
        assert again[1].weight is again[0].weight or again[1].weight.shape == (8, 8)
        assert isinstance(again[0].weight, nn.Parameter) and again[0].weight.is_cuda
        assert gpu.ledger.allocator.requested - before == (64 + 8 + 8) * 4


def there_and_back(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file)


def test_views_come_back_in_their_whole_storage_once() -> None:
    """A file has whole storages: 1,000 floats for ten of them, once for all views."""
    with memgraph.virtual_gpu("h100") as gpu:
        whole = torch.empty(1000, device="cuda")
        saved = {"ten": whole[:10], "next": whole[10:20], "turned": whole.view(10, 100).t()}
        before = gpu.ledger.allocator.requested
        again = there_and_back(saved)
        assert gpu.ledger.allocator.requested - before == 1000 * 4
        for name, tensor in saved.items():
            found = again[name]
            assert (found.shape, found.stride()) == (tensor.shape, tensor.stride()), name
            assert found.storage_offset() == tensor.storage_offset(), name


def test_channels_last_comes_back_so() -> None:
    with memgraph.virtual_gpu("h100"):
        weight = torch.empty(4, 3, 5, 5, device="cuda", memory_format=torch.channels_last)
        again = there_and_back([weight, torch.empty((), device="cuda").expand(5, 7)])
        assert [tensor.stride() for tensor in again] == [(75, 1, 15, 3), (0, 0)]
        assert again[1].untyped_storage().nbytes() == 4


def test_a_storage_that_was_saved_is_not_taken_for_a_real_one_of_the_same_number() -> None:
    """Numbers of storages are their addresses, which are given again: a saved one's may be that of one just read."""
    real = torch.zeros(1)
    number = real.untyped_storage()._cdata
    with memgraph.virtual_gpu("h100") as gpu:
        places = Places("cuda", gpu.recorder)
        places.keep(real.untyped_storage(), "cpu")
        saved = places.made(torch.empty(1, device="meta"), "cuda:0", number, False, False)
        moved = places.put(real)
        assert gpu.ledger.allocator.requested == 2 * 4
        assert saved.untyped_storage()._cdata != moved.untyped_storage()._cdata
