"""What the screens work with, made once by the app and handed to each screen."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from textual.signal import Signal

from app.engine_client import EngineClient, WorkerEvent
from app.history import History
from app.settings import Settings


@dataclass(frozen=True)
class Services:
    """``events`` publishes everything the engine tells; ``clock`` counts seconds."""

    engine: EngineClient
    events: Signal[WorkerEvent]
    history: History
    settings: Settings
    job_command: Sequence[str]
    transfer_command: Sequence[str]
    clock: Callable[[], float] = time.monotonic
