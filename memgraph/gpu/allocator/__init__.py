"""A model of PyTorch's caching allocator, with its settings."""
