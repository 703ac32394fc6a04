"""Which model a chat opens with when none is named."""

from pathlib import Path

from app import models
from app.history import History


def last_used(history: History) -> Path | None:
    """The folder of the model last talked with, else of any; None where none is installed."""
    installed = {model.name: model.folder for model in models.installed()}
    recent = (chat.model for chat in history.chats() if chat.model in installed)
    name = next(recent, next(iter(installed), None))
    return installed[name] if name else None
