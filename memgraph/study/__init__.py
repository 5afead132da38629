"""Many runs of one configuration: what fits, what would make it fit, which layers to checkpoint."""
