"""What the stack of an allocation says."""

from __future__ import annotations

import pytest

from memgraph.files.stacks import site
from tests.files.stacks_by_hand import ALLOCATE, ENGINE, IN_MODULE, TORCH, USER, called, composed, native, python


def test_the_op_is_the_one_that_a_dispatch_mode_would_see() -> None:
    """`linear` is made of `addmm`, `addmm` allocates by itself: `addmm` is told, with the user's line."""
    found = site([*ALLOCATE, *called("addmm"), *composed("linear"), *IN_MODULE])
    assert (found.op, found.source, found.phase) == ("aten.addmm", "me/train.py:12", "forward")
    assert found.library == "modules/linear.py:134 in forward"


def test_an_op_that_another_calls_inside_is_not_told() -> None:
    """`_to_copy` asks for its bytes by `empty_strided`, which goes through a dispatch of its own."""
    inner = native("at::_ops::empty_strided::redispatch(long)", "at::_ops::empty_strided::call(long)")
    found = site([*ALLOCATE, *inner, *called("_to_copy"), *composed("to_dtype"), *python((USER, "main", 3))])
    assert found.op == "aten._to_copy" and found.phase == ""


@pytest.mark.parametrize(
    ("name", "told"),
    [("sum_dim_IntList", "sum"), ("add_Tensor", "add"), ("nll_loss_forward", "nll_loss_forward"),
     ("max_pool2d_with_indices", "max_pool2d_with_indices"), ("mul__Tensor", "mul_"), ("_log_softmax", "_log_softmax"),
     ("max_dim", "max"), ("arange_start", "arange"), ("empty_memory_format", "empty"), ("embedding", "embedding")],
)  # fmt: skip
def test_overloads_are_cut(name: str, told: str) -> None:
    assert site([*ALLOCATE, *called(name)]).op == f"aten.{told}"


def test_a_backward_names_its_node() -> None:
    node = native("torch::autograd::generated::MmBackward0::apply(std::vector<at::Tensor>&&)")
    found = site([*ALLOCATE, *called("mm"), *node, *ENGINE])
    assert (found.op, found.phase, found.node, found.source) == ("aten.mm", "backward", "MmBackward0", "")


def test_what_autograd_copies_before_an_op_in_place_is_a_copy() -> None:
    """`silu_` saves what it is about to change (VariableType_4.cpp): below autograd that is a `clone`; its own kernel
    comes after."""
    inside = native("torch::autograd::VariableType::(anonymous namespace)::silu_(c10::DispatchKeySet, at::Tensor&)",
                    "at::_ops::silu_::call(at::Tensor&)")  # fmt: skip
    assert site([*ALLOCATE, *called("clone"), *inside, *IN_MODULE]).op == "aten.clone"
    assert site([*ALLOCATE, *called("silu_"), *IN_MODULE]).op == "aten.silu_"


def test_where_only_exported_names_are_known_the_op_is_the_same() -> None:
    """As `dladdr` names them: autograd's kernels and what the dispatcher calls have no names."""
    unnamed, inside = native("??"), native("at::_ops::convolution::redispatch(at::Tensor const&)")
    above = native("at::_ops::convolution::call(at::Tensor const&)", "at::native::conv2d_symint(at::Tensor const&)")
    conv = [*ALLOCATE, *inside, *unnamed, *above, *unnamed, *native("at::_ops::conv2d::call(at::Tensor const&)")]
    assert site(conv).op == "aten.convolution"
    norm = native(
        "at::_ops::native_group_norm::call(at::Tensor const&)", "at::_ops::group_norm::call(at::Tensor const&)"
    )
    assert site([*ALLOCATE, *norm]).op == "aten.native_group_norm"
    copied = native("at::_ops::clone::call(at::Tensor const&)", "??", "at::_ops::silu_::call(at::Tensor&)")
    assert site([*ALLOCATE, *copied]).op == "aten.clone"


def test_clipping_is_no_optimizer() -> None:
    """Its `_foreach` ops look like one's; its frames say what it is."""
    clip = python((f"{TORCH}/nn/utils/clip_grad.py", "_get_total_norm", 97), (USER, "train", 5))
    assert site([*ALLOCATE, *called("_foreach_norm_Scalar"), *clip]).phase == "update"
    assert site([*ALLOCATE, *called("_foreach_norm_Scalar")]).phase == "optimizer"  # nobody knows better


def test_frames_of_python_alone() -> None:
    """The function of torch that was called says more than `forward`."""
    loss = python((f"{TORCH}/nn/functional.py", "cross_entropy", 3555), (USER, "loss", 9))
    assert site(loss)[:4] == ("cross_entropy", "me/train.py:9", "nn/functional.py:3555 in cross_entropy", "")
    assert site(IN_MODULE)[:2] == ("linear", "me/train.py:12") and site(IN_MODULE).phase == "forward"
    optimizer = python((f"{TORCH}/optim/adam.py", "_init_group", 178), (f"{TORCH}/optim/optimizer.py", "wrapper", 9),
                       (USER, "train", 5))  # fmt: skip
    assert site(optimizer)[:4] == ("_init_group", "me/train.py:5", "optim/adam.py:178 in _init_group", "optimizer")


def test_lines_of_installed_libraries_are_there_on_demand() -> None:
    """A loss of transformers that a script calls: its own line; where all lines are a library's, the innermost."""
    library = "/usr/lib/python3/site-packages/transformers/loss/loss_utils.py"
    rows = [(f"{TORCH}/nn/functional.py", "cross_entropy", 3555), (library, "fixed", 42)]
    found = site(python(*rows, (USER, "loss", 9)))
    assert (found.op, found.source, found.inner) == ("cross_entropy", "me/train.py:9", "loss/loss_utils.py:42")
    assert site(python(*rows)).source == "loss/loss_utils.py:42"


def test_a_users_folder_may_be_called_torch() -> None:
    assert site(python(("/home/me/torch/train.py", "main", 3))).source == "torch/train.py:3"
    assert site(python(("C:\\me\\train.py", "main", 3))).source == "me/train.py:3"


def test_what_is_no_tensor_is_workspace() -> None:
    raw = native("c10::cuda::CUDACachingAllocator::Native::NativeCachingAllocator::raw_alloc(unsigned long)")
    handle = native("at::cuda::getCurrentCUDABlasHandle()")
    assert site([*raw, *called("convolution")]).kind == "raw"
    assert site([*raw, *handle, *called("mm")]).kind == "library"
    assert site([*ALLOCATE, *called("mm")]).kind == "tensor"


def test_modules_that_are_made_or_moved() -> None:
    made = python((f"{TORCH}/nn/modules/linear.py", "__init__", 109), (USER, "make", 2))
    moved = python((f"{TORCH}/nn/modules/module.py", "convert", 1), (f"{TORCH}/nn/modules/module.py", "_apply", 1),
                   (f"{TORCH}/nn/modules/module.py", "cuda", 1), (USER, "make", 3))  # fmt: skip
    assert site(made).kind == site(moved).kind == "model"
