"""From the name of a model to one that is loaded, the demo compressed on the way if need be."""

from pathlib import Path
from typing import TYPE_CHECKING

from app import models
from app.following import compress_here
from app.jobs import Job
from app.progress_line import ProgressLine
from assets import DEMO_DIR
from engine.budget import KvBits

if TYPE_CHECKING:
    from engine.session import Session


def model_folder(name: str, line: ProgressLine) -> Path:
    """The folder of a model; `demo` is compressed first where it is not there yet.

    Raises McChatError.
    """
    if name == models.DEMO and not models.demo_installed():
        compress_here(Job(DEMO_DIR, models.DEMO_BITS, models.demo_folder()), line)
    return models.resolve(name)


def load_session(
    name: str,
    device: str,
    context: int | None,
    line: ProgressLine,
    force: bool = False,
    kv_bits: KvBits = 16,
) -> "Session":
    """Load a model by name; ``force``: even where it does not fit; ``kv_bits`` of an element of
    the KV cache. Raises McChatError."""
    folder = model_folder(name, line)
    line.show(f"loading {folder.name}")
    from engine.session import Session

    return Session.load(
        folder,
        device,
        context,
        lambda done, step: line.show(f"loading {folder.name}", step),
        force,
        kv_bits,
    )
