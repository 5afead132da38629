"""The CUDA device that is not there."""
