"""Errors that are not of PyTorch's allocator, and tell few numbers or none: what can be said of them, what to do."""

from __future__ import annotations

_OURS = "memgraph run --gpu CARD train.py: without a GPU, what PyTorch itself would take, and what grows"
_WHO = "nvidia-smi, and end what else runs there"
_NOT_PYTORCH = "memgraph predicts PyTorch, and cannot say more of it"

CAUSES: dict[str, str] = {
    "cublas": "cuBLAS could not make its handle. Mostly the card was full, of which this tells no number; or an index "
    "out of range (a label, a token) had broken the run before it",
    "cudnn": "cuDNN does not say why. The card may have been full; or the driver does not go with this cuDNN: the text "
    "alone cannot tell",
    "driver": "the driver refused memory outside of PyTorch's allocator: for a context on a card that was full, or "
    "for pinned memory of the host",
    "pinned": "it was pinned memory of the host, or a worker's own context on a card that was full: no tensor on it",
    "nccl": "NCCL's buffers are outside of PyTorch's allocator, and the card had no room for them",
    "jax": f"it is JAX's allocator: {_NOT_PYTORCH}",
    "tensorflow": f"it is TensorFlow's allocator: {_NOT_PYTORCH}",
    "vllm": "vLLM gives a share of the card to the weights, a trial run and the cache of keys and values; too little "
    "of it was left",
    "cupy": f"it is CuPy's pool, which keeps what it has: {_NOT_PYTORCH}",
    "triton": "a kernel asks for more shared memory than a multiprocessor has: it is not the card's memory, and no "
    "batch is too large",
    "shm": "it is the host's shared memory, /dev/shm, through which workers of a DataLoader hand batches on",
    "host": "it is the host's memory and not the card's",
}
"""By the kind of a message."""
STEPS: dict[str, tuple[str, ...]] = {
    "cublas": (
        "CUDA_LAUNCH_BLOCKING=1, or the same step on the CPU: an index out of range is named there", _WHO, _OURS,
    ),
    "cudnn": (
        "a batch of 1, or torch.backends.cudnn.enabled = False once: if it runs then, it was memory or this cuDNN",
        _WHO, _OURS,
    ),
    "driver": (_WHO, "CUDA_LAUNCH_BLOCKING=1: the line may be another", _OURS),
    "pinned": ("pin_memory=False, fewer workers or less prefetch_factor; ulimit -l", _WHO),
    "nccl": (
        "torch.cuda.set_device(local_rank) first in each process: ranks on one card fill it",
        "torch.cuda.set_per_process_memory_fraction(0.9): PyTorch leaves room; NCCL_DEBUG=INFO says what was asked",
        "memgraph run --world W --gpu CARD train.py: what each rank takes",
    ),
    "jax": (
        "XLA_PYTHON_CLIENT_PREALLOCATE=false where other programs use the card",
        "jax.profiler.save_device_memory_profile and jax.ad_checkpoint.print_saved_residuals say what is there",
        "jax.checkpoint, a smaller batch",
    ),
    "tensorflow": (
        "a smaller batch; tf.config.experimental.set_memory_growth where other programs use the card",
        "TF_GPU_ALLOCATOR=cuda_malloc_async where much is free and in pieces",
    ),
    "vllm": (
        "a smaller max_model_len or max_num_seqs, or tensor_parallel_size; a larger gpu_memory_utilization if nothing "
        "else is on the card",
        _WHO,
    ),
    "cupy": (
        "cupy.get_default_memory_pool().free_all_blocks(), or set_limit, where PyTorch is beside it", _WHO,
    ),
    "triton": ("smaller blocks, or a smaller num_stages, of the kernel; a smaller head of attention",),
    "shm": (
        "docker run --shm-size=8g, or --ipc=host; in Kubernetes an emptyDir of medium Memory at /dev/shm",
        "fewer workers, or torch.multiprocessing.set_sharing_strategy('file_system')",
    ),
    "host": (
        "free -h, and a limit of the job (Slurm's --mem, a container's); fewer workers of the loader",
        "map_location and torch.load(mmap=True) for checkpoints: the card's memory is not the problem",
    ),
}  # fmt: skip
