"""Out-of-memory messages as people post them, of every wording."""

from __future__ import annotations

import pytest

from memgraph.analyze.refusal_words import explain_refusal, likely_card, others, outside
from memgraph.errors import UsageError
from memgraph.files.refusal_text import parse_refusal
from memgraph.units import GIB, MIB
from tests.commands import Run

T1_0 = """\
RuntimeError: CUDA out of memory. Tried to allocate 20.00 MiB (GPU 1; 10.92 GiB total capacity; 9.00 GiB already
allocated; 17.00 MiB free; 1.00 GiB cached)"""
T1_13 = """\
RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 23.69 GiB total capacity; 18.50 GiB already
allocated; 1.25 GiB free; 22.00 GiB reserved in total by PyTorch) If reserved memory is >> allocated memory try setting
max_split_size_mb to avoid fragmentation.  See documentation for Memory Management and PYTORCH_CUDA_ALLOC_CONF"""
T2_1 = """\
torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacty of 23.69
GiB of which 11.56 MiB is free. Process 4711 has 10.00 GiB memory in use. Including non-PyTorch memory, this
process has 13.50 GiB memory in use. Of the allocated memory 12.75 GiB is allocated by PyTorch, and 256.00 MiB
is reserved by PyTorch but unallocated. If reserved but unallocated memory is large try setting
max_split_size_mb to avoid fragmentation."""
T2_13 = """\
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB. GPU 0 has a total capacity of 79.25 GiB
of which 512.00 MiB is free. Including non-PyTorch memory, this process has 78.50 GiB memory in use. 70.00 GiB
allowed; Of the allocated memory 60.00 GiB is allocated by PyTorch, with 2.00 GiB allocated in private pools
(e.g., CUDA Graphs), and 16.00 GiB is reserved by PyTorch but unallocated."""
HIP = T1_13.replace("CUDA", "HIP")
MPS = """\
RuntimeError: MPS backend out of memory (MPS allocated: 17.50 GB, other allocations: 384.00 KB, max allowed:
18.00 GB). Tried to allocate 1.00 GB on private pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper
limit"""
OLD = """\
RuntimeError: cuda runtime error (2) : out of memory at /pytorch/aten/src/THC/generic/THCStorage.cu:58"""


IN_A_CONTAINER = """\
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.46 GiB. GPU 0 has a total capacity of 15.77 GiB of which
211.38 MiB is free. Process 2421 has 15.56 GiB memory in use. Of the allocated memory 14.02 GiB is allocated by PyTorch,
and 1.18 GiB is reserved by PyTorch but unallocated."""


def test_a_process_that_does_not_know_its_own_number() -> None:
    """14.02 + 1.18 = 15.20 GiB are reserved, and 15.56 in use by the only process there is: 0.36 are its context."""
    said = parse_refusal(IN_A_CONTAINER)
    assert (said.in_use, said.processes) == (int(15.56 * GIB), ())
    assert not any("other processes" in text for text in explain_refusal(said).causes)
    card = likely_card(said)
    assert card is not None and card.name == "v100-16gb"
    two = parse_refusal(IN_A_CONTAINER.replace("Process 2421", "Process 9 has 8.00 GiB memory in use. Process 2421"))
    assert two.processes == ((9, 8 * GIB),)


@pytest.mark.parametrize(
    ("text", "asked", "total", "allocated", "unused"),
    [
        (T1_0, 20 * MIB, int(10.92 * GIB), 9 * GIB, GIB),
        (T1_13, 2 * GIB, int(23.69 * GIB), int(18.5 * GIB), int(3.5 * GIB)),  # 22 - 18.5
        (HIP, 2 * GIB, int(23.69 * GIB), int(18.5 * GIB), int(3.5 * GIB)),
        (T2_1, 20 * MIB, int(23.69 * GIB), int(12.75 * GIB), 256 * MIB),
        (T2_13, GIB, int(79.25 * GIB), 60 * GIB, 16 * GIB),
        (MPS, GIB, 18 * GIB, int(17.5 * GIB), None),
        (OLD, None, None, None, None),
    ],
    ids=["1.0", "1.13", "hip", "2.1", "2.13", "mps", "0.4"],
)  # fmt: skip
def test_each_wording_is_read(
    text: str, asked: int | None, total: int | None, allocated: int | None, unused: int | None
) -> None:
    said = parse_refusal(text)
    assert (said.asked, said.total, said.allocated, said.unused) == (asked, total, allocated, unused)


def test_what_is_outside_of_the_allocator_and_what_others_use() -> None:
    """13.5 GiB of the process less 12.75 + 0.25 reserved; of 23.69 GiB the rest, where no process is named."""
    said = parse_refusal(T2_1)
    assert outside(said) == GIB // 2
    assert others(said) == 10 * GIB
    assert others(parse_refusal(T1_13)) == pytest.approx(0.44 * GIB, abs=MIB)  # 23.69 - 1.25 - 22


def test_a_message_inside_of_a_traceback() -> None:
    text = f"Traceback (most recent call last):\n  File 'a.py', line 3\n{T1_13}\nsrun: error: node7: task 0: Exited"
    assert parse_refusal(text) == parse_refusal(T1_13)


@pytest.mark.parametrize(
    ("text", "words", "silent"),
    [
        (T1_13, "fragments", "other processes"),
        (T2_1, "other processes hold 10.00 GiB", "fragments, "),
        (T2_1, "the last of many", "larger than the card"),
        (T2_13, "a limit of 70.00 GiB", "other processes hold"),
        (T1_0.replace("20.00 MiB", "40.00 GiB"), "one tensor is larger than the card", "the last of many"),
    ],
)
def test_the_causes_that_the_numbers_show(text: str, words: str, silent: str) -> None:
    causes = "; ".join(explain_refusal(parse_refusal(text)).causes)
    assert words in causes
    assert silent not in causes or silent == "fragments, "


def test_the_card_is_the_one_of_that_memory() -> None:
    card = likely_card(parse_refusal(T1_13))
    assert card is not None
    assert card.name == "rtx3090"
    assert "--gpu rtx3090" in explain_refusal(parse_refusal(T1_13)).steps[1]


RANKS = f"[rank3]: {T2_13}\n[rank1]: {T2_13.replace('1.00 GiB', '2.00 GiB').replace('60.00 GiB', '59.00 GiB')}"


def test_of_several_messages_the_last_is_told_alone() -> None:
    """Not the request of one rank with what another had allocated."""
    said = parse_refusal(RANKS)
    assert (said.messages, said.asked, said.allocated) == (2, 2 * GIB, 59 * GIB)
    assert "2 such messages" in explain_refusal(said).causes[0]
    assert [parse_refusal(text).messages for text in (T1_0, T1_13, T2_1, MPS, OLD)] == [1] * 5


def test_a_message_that_is_cut_at_both_ends() -> None:
    said = parse_refusal(
        "Tried to allocate 20.00 MiB (GPU 0; 1.96 GiB total capacity; 1.24 GiB already allocated; 2.88 MiB fr"
    )
    assert (said.asked, said.total, said.kind) == (20 * MIB, int(1.96 * GIB), "cuda")


def test_the_only_process_there_is_room_for_is_the_one_that_speaks() -> None:
    """70.11 + 3.33 GiB are reserved; of 79.10 all but 1.20 are in use, by one process."""
    said = parse_refusal(
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB. GPU 3 has a total capacity of 79.10 "
        "GiB of which 1.20 GiB is free. Process 77 has 77.89 GiB memory in use. Of the allocated memory 70.11 GiB is "
        "allocated by PyTorch, with 1.20 GiB allocated "
        "in private pools (e.g., CUDA Graphs), and 3.33 GiB is reserved by PyTorch "
        "but unallocated."
    )
    assert (said.in_use, said.processes) == (int(77.89 * GIB), ())
    assert not any("other processes" in text for text in explain_refusal(said).causes)


@pytest.mark.parametrize(
    ("text", "kind", "cause", "step"),
    [
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "cublas",
         "an index out of range", "CUDA_LAUNCH_BLOCKING"),
        ("RuntimeError: cuDNN error: CUDNN_STATUS_INTERNAL_ERROR", "cudnn", "cannot tell", "a batch of 1"),
        ("RuntimeError: CUDA error: out of memory\nCUDA kernel errors might be", "driver", "the driver", "nvidia-smi"),
        ("in pin_memory\n  return data.pin_memory()\nRuntimeError: CUDA error: out of memory", "pinned", "of the host",
         "pin_memory=False"),
        ("ncclUnhandledCudaError: Call failed.\nLast error:\nCuda failure 2 'out of memory'", "nccl", "NCCL",
         "set_device"),
        ("jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 51 bytes.",
         "jax", "cannot say more", "XLA_PYTHON"),
        ("ResourceExhaustedError: OOM when allocating tensor with shape[64,512] and type float on GPU:0", "tensorflow",
         "cannot say more", "memory_growth"),
        ("ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`", "vllm",
         "vLLM", "max_model_len"),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes", "host", "the host's", "free -h"),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=1.0.", "host", "the host's", "--mem"),
        (HIP, "hip", "fragments", "NVIDIA"),
    ],
)  # fmt: skip
def test_errors_of_others_are_told_as_theirs(text: str, kind: str, cause: str, step: str) -> None:
    said = parse_refusal(text)
    found = explain_refusal(said)
    assert said.kind == kind
    assert cause in "; ".join(found.causes) and step in "; ".join(found.steps)
    assert not any("rtx" in one for one in found.steps)
    assert parse_refusal(f"{T1_13} {text}").kind == (
        "hip" if kind == "hip" else "cuda"
    )  # with numbers beside it, these


def test_more_than_the_card_has_is_in_the_hosts_memory() -> None:
    text = T1_13.replace("18.50", "30.00").replace("22.00", "32.00")
    assert "the host's memory" in explain_refusal(parse_refusal(text)).causes[0]


def test_what_is_no_such_message() -> None:
    with pytest.raises(UsageError, match="no out-of-memory message"):
        parse_refusal("KeyError: 'a'")


def test_the_command_prints_numbers_causes_and_next_steps(run: Run) -> None:
    result = run("explain", T1_13)
    assert result.code == 0
    assert "2.000 GiB  asked for" in result.out
    assert "768.0 MiB  short of" in result.out  # 2 - 1.25 GiB
    assert "next: PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True" in result.out


def test_the_command_refuses_what_it_cannot_read(run: Run) -> None:
    assert run("explain", "nothing.txt").err == "memgraph: there is no file nothing.txt\n"


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        # 6.23 GiB in no tensor and 9.87 free would have held 14 together, neither alone
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 14.00 GiB. GPU 0 has a total capacity of 31.36 "
         "GiB of which 9.87 GiB is free. Including non-PyTorch memory, this process has 21.48 GiB memory in use. Of "
         "the allocated memory 14.64 GiB is allocated by PyTorch, and 6.23 GiB is reserved by PyTorch but unallocated. "
         "If reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True",
         "PYTORCH_ALLOC_CONF=expandable_segments:True, in the environment before Python starts"),
        (T1_13, "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True, in the environment before Python starts (from torch "
         "2.1 on; before, max_split_size_mb:128)"),
    ],
)  # fmt: skip
def test_the_setting_is_that_of_its_torch(text: str, setting: str) -> None:
    assert explain_refusal(parse_refusal(text)).steps[0] == setting


def test_what_would_not_have_served_together_is_no_fragment() -> None:
    """450 MiB in no tensor and 373.5 free are less than the 896 that were asked for."""
    said = parse_refusal(
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 896.00 MiB. GPU 0 has a total capacity of 23.64 "
        "GiB of which 373.50 MiB is free. Process 12 has 5.15 GiB memory in use. Including non-PyTorch memory, this "
        "process has 18.10 GiB memory in use. Of the allocated memory 17.20 GiB is allocated by PyTorch, and 450.12 "
        "MiB is reserved by PyTorch but unallocated."
    )
    told = explain_refusal(said)
    assert [cause for cause in told.causes if "fragments" in cause] == []
    assert told.steps[0].startswith("nvidia-smi")


def test_what_a_process_uses_may_not_be_known() -> None:
    """2^64 bytes less one, where NVIDIA's library does not know it."""
    said = parse_refusal(T2_13.replace("78.50 GiB memory", "17179869184.00 GiB memory"))
    assert (said.in_use, said.free, said.allocated) == (None, 512 * MIB, 60 * GIB)


@pytest.mark.parametrize(
    ("text", "kind", "step"),
    [
        ("ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.", "host", "free -h"),
        ("RuntimeError: DataLoader worker (pid 4) is killed by signal: Bus error. It is possible that dataloader's "
         "workers are out of shared memory.", "shm", "--shm-size"),
        ("triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 131072", "triton", "blocks"),
        ("cupy.cuda.memory.OutOfMemoryError: Out of memory allocating 8,589,934,592 bytes", "cupy", "free_all_blocks"),
        ("RuntimeError: CUDA driver error: out of memory", "driver", "nvidia-smi"),
        ("RuntimeError: Unable to find a valid cuDNN algorithm to run convolution", "cudnn", "a batch of 1"),
        ("NCCL version 2.18.1\nncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nFailed to CUDA "
         "calloc async 4 bytes", "nccl", "set_device"),
    ],
)  # fmt: skip
def test_what_else_runs_out(text: str, kind: str, step: str) -> None:
    said = parse_refusal(text)
    assert said.kind == kind
    assert any(step in one for one in explain_refusal(said).steps)


def test_a_size_that_is_no_size() -> None:
    said = parse_refusal("RuntimeError: CUDA out of memory. Tried to allocate more than 1EB memory.")
    assert any("larger than the card" in cause for cause in explain_refusal(said).causes)
