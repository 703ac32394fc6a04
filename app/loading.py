"""From the name of a model to one that is loaded, the demo compressed on the way if need be."""

from pathlib import Path
from typing import TYPE_CHECKING

from app import models
from app.progress_line import ProgressLine
from app.units import clock
from assets import DEMO_DIR
from compress import progress
from engine.errors import Interrupted

if TYPE_CHECKING:
    from compress.pipeline import CompressJob
    from engine.session import Session


def model_folder(name: str, line: ProgressLine) -> Path:
    """The folder of a model; `demo` is compressed first where it is not there yet.

    Raises McChatError.
    """
    if name == models.DEMO and not models.demo_installed():
        from compress.pipeline import CompressJob

        job = CompressJob(DEMO_DIR, models.demo_folder(), models.DEMO_BITS)
        compress_with_progress(job, line)
    return models.resolve(name)


def compress_with_progress(job: "CompressJob", line: ProgressLine) -> Path:
    """Run a compression here and now; returns the folder of the result.

    Raises Interrupted for Ctrl+C: every finished layer is on the disk.
    """
    from compress.pipeline import compress

    def show(step: progress.Progress) -> None:
        eta = "" if step.eta_seconds is None else f", {clock(step.eta_seconds)} left"
        checking = step.stage == "check"
        title = "checking" if checking else f"compressing layer {step.layer + 1} of {step.layers}"
        line.show(title, f"{step.fraction:.0%}{eta}: {step.message}")

    try:
        return compress(job, show)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; run the same command again to go on") from None


def load_session(name: str, device: str, context: int | None, line: ProgressLine) -> "Session":
    """Load a model by name. Raises McChatError."""
    folder = model_folder(name, line)
    line.show(f"loading {folder.name}")
    from engine.session import Session

    return Session.load(
        folder, device, context, lambda done, step: line.show(f"loading {folder.name}", step)
    )
