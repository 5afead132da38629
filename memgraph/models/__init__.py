"""What can be run: the presets, and a user's own `package.module:factory`. Start at `registry.resolve`."""
