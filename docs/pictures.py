"""Draw the pictures of the method from the demo.

    python -m docs.pictures

writes docs/images/method-*.svg. It compresses the demo in a temporary folder, which takes half a
minute. The same machine gives the same bytes each time; another one may round otherwise.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from assets import DEMO_DIR
from compress.pipeline import CompressJob, compress
from docs import charts, figures
from engine.checkpoint import load_model
from engine.manifest import read_manifest

IMAGES = Path(__file__).parent / "images"
BITS = (1.5, 2.0, 2.5)
LAYER = 1
"""Counted from 0: the demo's second layer, whose experts differ most."""
EXPERT = 0


def pictures(folder: Path) -> Iterator[tuple[str, str]]:
    """Names and contents of all pictures, from a compressed demo."""
    manifest = read_manifest(folder)
    model = load_model(folder)
    size = manifest.recipe.group_size
    yield "method-widths", charts.widths(list(figures.allocations(manifest, model.config, BITS)))
    yield "method-errors", charts.errors(figures.errors(manifest, LAYER))
    yield "method-turned", charts.turned(*figures.turned(LAYER, EXPERT, size))
    yield "method-ratios", charts.ratios(figures.ratios(model, manifest, LAYER))
    yield "method-tokens", charts.tokens(figures.fates(model, folder, manifest))


def main() -> None:
    """Write all pictures."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = compress(CompressJob(DEMO_DIR, Path(scratch) / "demo"), lambda event: None)
        with torch.inference_mode():
            for name, content in pictures(folder):
                (IMAGES / f"{name}.svg").write_text(content, encoding="utf-8")
                print(f"docs/images/{name}.svg")


if __name__ == "__main__":
    main()
