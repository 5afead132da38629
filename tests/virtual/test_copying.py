"""`copy.deepcopy` and `copy.copy` of what is on the virtual GPU, as of what is on a real one; and what died is gone."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import memgraph
from memgraph.capture.session import VirtualGpu
from tests.capture.watching import left, story


@pytest.fixture(autouse=True)
def gpu() -> Iterator[VirtualGpu]:
    """A virtual GPU that is open."""
    with memgraph.virtual_gpu("rtx3090") as gpu:
        yield gpu
    gpu.trace.self_check()


def storage(tensor: Tensor) -> int:
    """Which storage a tensor is on."""
    return int(tensor.untyped_storage()._cdata)


def trained() -> nn.Module:
    """A model that has gradients."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).cuda()
    model(torch.zeros(2, 4).cuda()).sum().backward()
    return model


# Deep copies.


def test_a_model_and_its_copy_share_nothing(gpu: VirtualGpu) -> None:
    model = trained()
    own = copy.deepcopy(model)
    for name, tensor in model.state_dict().items():
        other = own.state_dict()[name]
        assert (other.shape, other.dtype, other.device) == (tensor.shape, tensor.dtype, tensor.device)
        assert storage(other) != storage(tensor)
    for one, other in zip(model.parameters(), own.parameters(), strict=True):
        assert isinstance(other, nn.Parameter)
        assert other.requires_grad
        assert one.grad is not None
        assert other.grad is not None
        assert storage(one.grad) != storage(other.grad)


def test_a_copy_takes_as_much_memory_as_the_original(gpu: VirtualGpu) -> None:
    """Weight and bias, 4 × 4 × 4 and 4 × 4 bytes."""
    model = nn.Linear(4, 4).cuda()
    before = left(gpu.trace)
    own = copy.deepcopy(model)
    assert before == ["_to_copy 64", "_to_copy 16"]
    assert left(gpu.trace) == [*before, "clone 64", "clone 16"]
    del own
    assert left(gpu.trace) == before


def test_a_copy_trains_by_itself(gpu: VirtualGpu) -> None:
    model = nn.Linear(4, 4).cuda()
    own = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(own.parameters())
    own(torch.zeros(2, 4).cuda()).sum().backward()
    optimizer.step()
    assert model.weight.grad is None
    assert own.weight.grad is not None


def test_tied_weights_stay_tied(gpu: VirtualGpu) -> None:
    model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    model[1].weight = model[0].weight
    own = copy.deepcopy(model.cuda())
    assert own[0].weight is own[1].weight
    assert own[0].weight is not model[0].weight


def test_a_frozen_parameter_stays_frozen(gpu: VirtualGpu) -> None:
    model = nn.Linear(4, 4).cuda().requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in copy.deepcopy(model).parameters())


def test_views_of_one_storage_are_views_of_one_copy(gpu: VirtualGpu) -> None:
    whole = torch.zeros(6, device="cuda")
    parts = {"whole": whole, "grid": whole.view(2, 3).t(), "slice": whole[2:4], "bits": whole.view(torch.int32)}
    own = copy.deepcopy(parts)
    assert len({storage(tensor) for tensor in own.values()}) == 1
    assert storage(own["whole"]) != storage(whole)
    for name, tensor in parts.items():
        other = own[name]
        assert (other.shape, other.stride(), other.storage_offset(), other.dtype) == (
            tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype,
        )  # fmt: skip


def test_a_slice_brings_its_whole_storage_as_torch_does(gpu: VirtualGpu) -> None:
    own = copy.deepcopy(torch.zeros(1000, device="cuda")[:1])
    assert (tuple(own.shape), own.untyped_storage().nbytes()) == ((1,), 4000)


def test_what_is_no_leaf_is_refused_in_torchs_words(gpu: VirtualGpu) -> None:
    tensor = nn.Linear(4, 4).cuda().weight * 2
    with pytest.raises(RuntimeError, match="Only Tensors created explicitly by the user"):
        copy.deepcopy(tensor)


def test_what_a_user_put_on_a_tensor_is_copied_and_what_memgraph_did_is_not(gpu: VirtualGpu) -> None:
    model = trained()
    weight: Any = model[0].weight  # type: ignore[index]
    weight.note = ["mine"]
    own = copy.deepcopy(weight)
    assert own.note == ["mine"]
    assert own.note is not weight.note
    assert vars(weight)["_memgraph_name"] == "0.weight"
    assert "_memgraph_name" not in vars(own)


def test_an_optimizer_and_an_average_are_copied(gpu: VirtualGpu) -> None:
    model = trained()
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    states = copy.deepcopy(optimizer).state.values()
    assert {state["exp_avg"].device.type for state in states} == {"cuda"}
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    average.update_parameters(model)
    assert {parameter.device.type for parameter in average.parameters()} == {"cuda"}


# Shallow copies.


def test_a_shallow_copy_is_on_the_same_storage(gpu: VirtualGpu) -> None:
    tensor = torch.zeros(3, device="cuda", requires_grad=True)
    own = copy.copy(tensor)
    assert own is not tensor
    assert storage(own) == storage(tensor)
    assert own.requires_grad
    assert own.is_leaf
    parameter = copy.copy(nn.Linear(4, 4).cuda().weight)
    assert isinstance(parameter, nn.Parameter)


# Death.


def test_a_model_that_died_is_gone_at_once(gpu: VirtualGpu) -> None:
    """Nothing in the recorder holds it: neither the graph nor the names nor the last autograd node."""
    model = trained()
    references = [weakref.ref(part) for part in (model, *model.modules(), *model.parameters())]
    gc.disable()
    try:
        del model
        assert [reference() for reference in references] == [None] * len(references)
    finally:
        gc.enable()
    assert left(gpu.trace) == []


def test_the_second_model_finds_the_memory_of_the_first(gpu: VirtualGpu) -> None:
    """A script that builds model after model in one process does not pile them up."""
    peaks = []
    for _ in range(3):
        model = trained()
        del model
        peaks.append(torch.cuda.max_memory_allocated())
        assert left(gpu.trace) == []
    assert peaks[1] == peaks[2]  # the first brings the workspaces, while it already holds something


def test_a_copy_does_not_keep_the_original_alive(gpu: VirtualGpu) -> None:
    model = nn.Linear(4, 4).cuda()
    own = copy.deepcopy(model)
    reference = weakref.ref(model.weight)
    del model
    gc.collect()
    assert reference() is None
    assert story(gpu.trace)[-2:] == ["-_to_copy 64", "-_to_copy 16"]
    assert own.weight.shape == (4, 4)


def test_an_optimizer_that_died_lets_go_of_its_state(gpu: VirtualGpu) -> None:
    model = trained()
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    state = next(iter(optimizer.state.values()))["exp_avg"]
    reference = weakref.ref(state)
    del state, optimizer
    gc.collect()  # an optimizer's hooks hold it in a cycle
    assert reference() is None


def test_what_came_back_from_the_device_is_copied_with_what_its_user_set() -> None:
    """Lightning's average weights copy the model after its teardown has moved it to the host."""
    model = trained().cpu()
    model[1].running_mean.note = "kept"
    copied = copy.deepcopy(model)
    assert copied[1].running_mean.device.type == copied[0].weight.device.type == "cpu"
    assert copied[1].running_mean.note == "kept"
    assert copied[1].running_mean.shape == (4,)


def test_a_buffer_that_is_copied_takes_one_element_more_for_a_moment(gpu: VirtualGpu) -> None:
    """Recorded on an H200 of a batch norm's running mean, 64 floats; a parameter's copy is a clone alone."""
    mean, weight = torch.zeros(64, device="cuda"), torch.nn.Parameter(torch.zeros(64, device="cuda"))
    kept = copy.deepcopy(mean), copy.deepcopy(weight)
    assert [buffer.size for buffer in gpu.trace.buffers] == [256, 256, 256, 4, 256]
    assert gpu.trace.peak.requested == 4 * 256
    assert kept[0].shape == kept[1].shape
