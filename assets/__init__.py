"""The demo model: its small world, corpus generator, training, scores and trained weights."""

from pathlib import Path
from typing import Final

DEMO_DIR: Final[Path] = Path(__file__).resolve().parent / "demo"
"""Folder of the trained demo checkpoint, in the layout of a Hugging Face Mixtral."""

CATALOGUE: Final[Path] = Path(__file__).resolve().parent / "catalogue.json"
"""Ready builds on the hub that are known to work."""
