"""The virtual device comes and goes: torch and the process are afterwards as they were found."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_module
from torch.utils import _foreach_utils

import memgraph
from memgraph.errors import ShimError, TorchChanged, UsageError
from memgraph.virtual import patches, shim
from memgraph.virtual.device import virtual_device

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a real GPU is visible, so the shim is not used")

COUNTERS = {
    ("torch.utils.hooks", "RemovableHandle", "next_id"),
    ("torch._subclasses.meta_utils", "DESCRIBER_NEXT_ID"),
    ("torch._subclasses.fake_tensor", "FakeTensorMode", "cache_hits"),
    ("torch._subclasses.fake_tensor", "FakeTensorMode", "cache_misses"),
}
"""What torch itself counts up with use."""


def attributes() -> dict[tuple[str, ...], int]:
    """Every attribute of every module and class of torch, about a hundred thousand, by identity."""
    found: dict[tuple[str, ...], int] = {}
    classes: set[int] = set()
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "torch"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some names warn when they are looked at
        for module in modules:
            for name, value in list(vars(module).items()) if isinstance(module, ModuleType) else ():
                found[module.__name__, name] = id(value)
                if isinstance(value, type) and id(value) not in classes and str(value.__module__).startswith("torch"):
                    classes.add(id(value))
                    for member, inner in list(vars(value).items()):
                        found[value.__module__, value.__qualname__, member] = id(inner)
    return {key: value for key, value in found.items() if key not in COUNTERS}


def state() -> dict[str, Any]:
    """What else of torch and of the process memgraph touches."""
    return {
        "kernels": {
            name: torch._C._dispatch_dump(name)
            for name in torch._C._dispatch_get_all_op_names()
            if name.startswith("aten::")
        },
        "modes": torch._C._len_torch_dispatch_stack(),
        "foreach": [list(optimizer_module._foreach_supported_types), list(_foreach_utils._foreach_supported_types)],
        "lift": torch._C._only_lift_cpu_tensors(),
        "module hooks": [
            len(hooks) for hooks in (module_hooks._global_forward_pre_hooks, module_hooks._global_forward_hooks)
        ],
        "optimizer hooks": [
            len(hooks)
            for hooks in (optimizer_module._global_optimizer_pre_hooks, optimizer_module._global_optimizer_post_hooks)
        ],
        "flags": [torch.is_grad_enabled(), torch.is_autocast_enabled("cuda"), torch.is_inference_mode_enabled()],
        "default": [torch.get_default_dtype(), torch.get_default_device()],
        "accelerator": [torch.accelerator.is_available(), torch.accelerator.current_accelerator()],
        "cuda": [torch.cuda.is_available(), torch.cuda.device_count()],
        "collector": gc.isenabled(),
        "log": logging.getLogger("torch._subclasses.fake_tensor").level,
        "path": list(sys.path),
    }


def cpu_step() -> list[float]:
    """Forward and backward of a small model on the CPU: 3 x², whose gradient at 1, 2, 3 is 6, 12, 18."""
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    (3 * x**2).sum().backward()
    assert x.grad is not None
    return x.grad.tolist()


def train() -> None:
    """A step on the virtual device that passes through all that memgraph patches. Autocast casts one bias only: the
    order in which it drops the copies that nobody else holds depends on addresses."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Flatten(), nn.Linear(64, 8), nn.SiLU()).cuda()
    x = torch.zeros(2, 3, 6, 6).cuda()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y = model(x)
        y = nn.functional.scaled_dot_product_attention(*[y.view(2, 1, 1, 8)] * 3)
    optimizer = torch.optim.AdamW(model.parameters())
    y.sum().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


class Refuses(torch.autograd.Function):
    """Fails in the backward, on autograd's own thread."""

    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_context: Any, _gradient: Tensor) -> Tensor:
        raise ValueError("backward")


class Broken(nn.Module):
    """Fails where it is told to."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.layer = nn.Linear(4, 4).cuda()
        if where == "constructor":
            raise ValueError(where)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        if self.where == "forward":
            raise ValueError(self.where)
        return Refuses.apply(y) if self.where == "backward" else y  # type: ignore[no-untyped-call]


def fail(where: str) -> None:
    """A step that fails."""
    optimizer: Any = None
    with torch.autocast("cuda", dtype=torch.bfloat16):
        model = Broken(where)
        y = model(torch.zeros(2, 4).cuda())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    y.sum().backward()
    if where == "interrupt":
        raise KeyboardInterrupt(where)
    optimizer.register_step_post_hook(lambda *_: (_ for _ in ()).throw(ValueError("optimizer")))
    optimizer.step()


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    """The first run lets torch load what it loads late."""
    with memgraph.virtual_gpu("rtx3090"):
        train()
        torch.optim.SGD([torch.zeros(1)])
    cpu_step()
    attributes()


@pytest.fixture
def unchanged() -> Iterator[None]:
    """After the test every attribute, kernel, hook and flag is what it was before."""
    before, state_before = attributes(), state()
    yield
    after, state_after = attributes(), state()
    assert sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key)) == []
    assert [key for key in state_before if state_before[key] != state_after[key]] == []


def test_the_comparison_sees_what_is_patched() -> None:
    """While a virtual GPU is open it is not so: the test below could fail."""
    before, state_before = attributes(), state()
    with memgraph.virtual_gpu("rtx3090"):
        after, state_after = attributes(), state()
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert {
        ("torch.cuda", "is_available"),
        ("torch.cuda.memory", "memory_allocated"),
        ("torch.cuda.random", "manual_seed"),
        ("torch._C", "_select_conv_backend"),
        ("torch.nn.modules.module", "Module", "_apply"),
        ("torch._subclasses.fake_tensor", "FakeTensor", "__deepcopy__"),
    } <= changed
    different = {key for key in state_before if state_before[key] != state_after[key]}
    assert different >= {"kernels", "modes", "foreach", "lift", "module hooks", "optimizer hooks", "log"}
    kernels = state_before["kernels"]
    assert {name for name in kernels if kernels[name] != state_after["kernels"][name]} >= {
        "aten::scaled_dot_product_attention"
    }


@pytest.mark.usefixtures("unchanged")
def test_a_run_leaves_torch_as_it_was() -> None:
    with memgraph.virtual_gpu("rtx3090"):
        train()
    assert cpu_step() == [6.0, 12.0, 18.0]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("where", ["constructor", "forward", "backward", "optimizer"])
def test_a_run_that_fails_leaves_torch_as_it_was(where: str) -> None:
    with pytest.raises(ValueError, match=where), memgraph.virtual_gpu("rtx3090"):
        fail(where)
    assert cpu_step() == [6.0, 12.0, 18.0]


@pytest.mark.usefixtures("unchanged")
def test_an_interrupt_leaves_torch_as_it_was() -> None:
    with pytest.raises(KeyboardInterrupt), memgraph.virtual_gpu("rtx3090"):
        fail("interrupt")
    assert cpu_step() == [6.0, 12.0, 18.0]


@pytest.mark.usefixtures("unchanged")
def test_a_name_that_torch_no_longer_has_is_said_and_nothing_stays_patched() -> None:
    with (
        pytest.raises(TorchChanged, match=r"^torch \S+ has no torch\.cuda\.no_such_name any more; memgraph supports"),
        patches.cuda_answers({"is_available": lambda: True, "no_such_name": None}),
    ):
        pytest.fail("opened half-patched")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "late", ["memgraph.capture.session.attention_as_on", "memgraph.capture.session.attention_kernels_of"]
)
def test_a_virtual_gpu_that_cannot_open_leaves_torch_as_it_was(late: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise TorchChanged("not as it was")

    monkeypatch.setattr(late, fails)
    with pytest.raises(TorchChanged), memgraph.virtual_gpu("rtx3090"):
        pytest.fail("opened half-patched")
    monkeypatch.undo()
    with memgraph.virtual_gpu("rtx3090"):
        train()


@pytest.mark.usefixtures("unchanged")
def test_an_engine_that_accumulates_in_another_way_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memgraph.capture.session.run_two_gradients", lambda: None)
    with (
        pytest.raises(TorchChanged, match="autograd engine accumulates gradients in a way not seen before"),
        memgraph.virtual_gpu("rtx3090"),
    ):
        train()


@pytest.mark.usefixtures("unchanged")
def test_what_a_patch_replaced_was_inherited_and_is_inherited_again() -> None:
    class Parent:
        value = 1

    class Child(Parent):
        pass

    with patches.replaced(Child, "value", 2):
        assert (Parent.value, Child.value) == (1, 2)
    assert "value" not in vars(Child)
    assert Child.value == 1


def test_a_run_after_a_run_is_the_same() -> None:
    traces = []
    for _ in range(2):
        with memgraph.virtual_gpu("rtx3090") as gpu:
            train()
        traces.append(gpu.trace)
    assert traces[0] == traces[1]
    assert traces[0].peak.requested > 0


def test_random_numbers_on_the_cpu_are_not_used_up() -> None:
    before = torch.random.get_rng_state()
    with memgraph.virtual_gpu("rtx3090"):
        torch.rand(10, device="cuda")
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_run_after_a_failed_run_is_the_same() -> None:
    with memgraph.virtual_gpu("rtx3090") as gpu:
        train()
    for where in ("constructor", "forward", "backward"):
        with pytest.raises(ValueError, match=where), memgraph.virtual_gpu("rtx3090"):
            fail(where)
    with memgraph.virtual_gpu("rtx3090") as again:
        train()
    assert again.trace == gpu.trace


# Nesting.


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("opener", [lambda: memgraph.virtual_gpu("t4"), virtual_device])
def test_a_second_one_inside_the_first_is_refused_in_one_line(opener: Callable[[], Any]) -> None:
    with memgraph.virtual_gpu("rtx3090") as gpu:
        with pytest.raises(UsageError) as refused, opener():
            pytest.fail("opened")
        assert str(refused.value) == "a virtual GPU is open already: leave its `with` block first"
        assert torch.cuda.get_device_name() == "NVIDIA GeForce RTX 3090"
        train()
    assert gpu.trace.peak.requested > 0


# The CPU before, between and after.


@pytest.mark.usefixtures("unchanged")
def test_the_cpu_computes_before_in_between_and_after() -> None:
    assert cpu_step() == [6.0, 12.0, 18.0]
    with memgraph.virtual_gpu("rtx3090"):
        train()
        assert cpu_step() == [6.0, 12.0, 18.0]
        train()
    assert cpu_step() == [6.0, 12.0, 18.0]


@without_gpu
def test_the_engine_works_where_the_processs_first_backward_was_the_cpus() -> None:
    """The engine counts its devices once, at the first backward of the process."""
    program = """
        import torch, memgraph

        def cpu():
            x = torch.tensor([1.0, 2.0], requires_grad=True)
            (x * x).sum().backward()
            print(x.grad.tolist())

        def virtual():
            with memgraph.virtual_gpu("rtx3090") as gpu:
                w = torch.zeros(100, device="cuda", requires_grad=True)
                (w * 2).sum().backward()
            print(w.grad.device, gpu.trace.peak.requested)

        for run in (cpu, virtual, cpu, virtual, cpu):
            run()
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False
    )
    # 100 floats: w, its double, then the gradient; the loss and its gradient are 4 bytes each: 400 + 4 + 4 + 400.
    expected = ["[2.0, 4.0]", "cuda:0 808"] * 2 + ["[2.0, 4.0]"]
    assert (result.returncode, result.stdout.splitlines()) == (0, expected), result.stderr


def test_autograd_on_the_cpu_keeps_its_hooks_threads_and_checkpoints_afterwards() -> None:
    from torch.utils.checkpoint import checkpoint

    with memgraph.virtual_gpu("rtx3090"):
        train()
    threads: set[int] = set()
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = checkpoint(lambda t: t * t * t, x, use_reentrant=False)

    def twice(gradient: Tensor) -> Tensor:
        threads.add(threading.get_ident())
        return gradient * 2

    y.register_hook(twice)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [6.0, 24.0]  # 2 × 3 x²
    assert threads == {threading.get_ident()}  # on the CPU the calling thread runs the backward


@without_gpu
def test_afterwards_there_is_no_cuda_device() -> None:
    with pytest.raises((RuntimeError, AssertionError)) as before:
        torch.zeros(1, device="cuda")
    with memgraph.virtual_gpu("rtx3090"):
        assert torch.zeros(1, device="cuda").device == torch.device("cuda", 0)
        assert torch.accelerator.current_accelerator() == torch.device("cuda")
    with pytest.raises(type(before.value)) as after:
        torch.zeros(1, device="cuda")
    assert str(after.value) == str(before.value)


@without_gpu
def test_a_device_that_somebody_left_in_place_is_noticed() -> None:
    library = shim.load()
    assert library.memgraph_install() == 0
    try:
        assert library.memgraph_install() == -1
        with pytest.raises(ShimError, match="in place already"), virtual_device():
            pytest.fail("opened")
    finally:
        assert library.memgraph_uninstall() == 0
    assert library.memgraph_uninstall() == -1


# What the device answers.


def test_the_device_answers_as_the_card_would() -> None:
    with memgraph.virtual_gpu("t4") as gpu:
        properties = torch.cuda.get_device_properties(0)
        assert torch.cuda.is_available()
        assert torch.cuda.device_count() == 1
        assert torch.cuda.get_device_name() == properties.name == "NVIDIA Tesla T4"
        assert torch.cuda.get_device_capability() == (properties.major, properties.minor) == (7, 5)
        assert properties.total_memory == gpu.spec.memory
        assert not torch.cuda.is_bf16_supported(including_emulation=False)
        assert torch.cuda.mem_get_info() == (gpu.spec.memory - gpu.spec.context, gpu.spec.memory)
        assert torch.cuda.cudart().cudaMemGetInfo(0) == torch.cuda.mem_get_info()
        torch.cuda.profiler.start()
        torch.cuda.check_error(torch.cuda.cudart().cudaProfilerStop())


def test_memory_figures_are_the_allocator_models() -> None:
    """1000 bytes are a block of 1024 in a segment of 2 MiB; 2 MiB are a block of their own in a segment of 20."""
    with memgraph.virtual_gpu("rtx3090"):
        small = torch.zeros(250, device="cuda")
        assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == (1024, 2 * 2**20)
        assert torch.cuda.memory_stats()["requested_bytes.all.current"] == 1000
        big = torch.zeros(2**19, device="cuda")
        assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == (1024 + 2**21, 22 * 2**20)
        del big
        assert (torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()) == (1024, 1024 + 2**21)
        torch.cuda.empty_cache()
        assert (torch.cuda.memory_reserved(), torch.cuda.max_memory_reserved()) == (2 * 2**20, 22 * 2**20)
        torch.cuda.reset_peak_memory_stats()
        assert (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()) == (1024, 2 * 2**20)
        del small


def test_refused_arguments_raise_and_are_not_logged_beside(caplog: pytest.LogCaptureFixture) -> None:
    with memgraph.virtual_gpu("rtx3090"), pytest.raises(RuntimeError):
        torch.zeros(4, 6, device="cuda") + torch.zeros(5, 6, device="cuda")
    assert caplog.records == []


def test_parameters_stay_the_same_objects_when_a_model_moves() -> None:
    with memgraph.virtual_gpu("rtx3090"):
        model = nn.Linear(4, 4)
        tied = nn.Linear(4, 4)
        tied.weight = model.weight
        both = nn.ModuleList([model, tied])
        weight, optimizer = model.weight, torch.optim.SGD(both.parameters(), lr=0.1)
        both.to("cuda")
        assert model.weight is tied.weight is weight is optimizer.param_groups[0]["params"][0]
        assert isinstance(weight, nn.Parameter)
        assert weight.device.type == "cuda"
        assert weight.requires_grad
        both.bfloat16()
        assert model.weight is weight
        assert weight.dtype == torch.bfloat16
