"""How each model is to be loaded, as it was chosen in the wizard: remembered from run to run.

A JSON file. What cannot be read counts as not remembered: the settings decide then.
"""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app import paths
from app.settings import Settings
from engine.protocol import Load, from_dict


@dataclass(frozen=True)
class LoadChoice:
    """As in `engine.protocol.Load`; ``force``: the user wants it though it does not fit."""

    device: str = "auto"
    context: int | None = None
    force: bool = False


def recall(model: Path) -> LoadChoice | None:
    """What was chosen for the model in this folder, None if nothing was."""
    try:
        return from_dict(LoadChoice, _read()[str(model)])
    except (KeyError, TypeError, AttributeError):
        return None


def remember(model: Path, choice: LoadChoice) -> None:
    """Keep a choice. Raises OSError when the file cannot be written."""
    path = paths.load_choices_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    known = _read() | {str(model): dataclasses.asdict(choice)}
    temporary.write_text(json.dumps(known, indent=1), encoding="utf-8")
    os.replace(temporary, path)


def load_request(model: Path, settings: Settings) -> Load:
    """What to ask of the engine for the model in this folder: as it was chosen, else as the
    settings say."""
    chosen = recall(model) or LoadChoice(settings.device, settings.context)
    return Load(str(model), chosen.device, chosen.context, chosen.force, settings.kv_bits)


def _read() -> dict[str, Any]:
    try:
        raw = json.loads(paths.load_choices_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}
