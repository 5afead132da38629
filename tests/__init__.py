"""The tests, in folders that mirror the package."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
"""The repository."""
DATA = Path(__file__).parent / "data"
"""What was recorded for the tests; `data/README.md` says how."""
