"""What others write: snapshots of PyTorch, logs of the allocator hook; `any_file.load` reads any of them."""
