"""Scripts of the libraries that people train with, run to their end: `python -m field.run`."""
