"""`torch.compile` without a GPU."""
