"""What CUDA's kernels do where a CPU-only build does otherwise."""
