"""A world of GPUs: `torch.distributed`'s own code on the virtual GPU of one rank."""
