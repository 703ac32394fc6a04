"""The screen of a job that runs already."""

from app.jobs import RunningJob, RunningTransfer
from app.screens.compressing import CompressScreen
from app.screens.transferring import TransferScreen
from app.services import Services


def joining(
    running: RunningJob | RunningTransfer, services: Services
) -> CompressScreen | TransferScreen:
    """Watch a job that was started elsewhere, or earlier."""
    if isinstance(running, RunningTransfer):
        return TransferScreen(running.job, services)
    return CompressScreen.joining(running, services)
