"""Where mc-chat keeps things. Nothing is created here: whoever writes first makes the folder.

``MC_CHAT_HOME`` puts everything into one folder; otherwise each kind goes where the platform
expects it (XDG on Linux, Library on macOS, AppData on Windows). The setting ``models_dir`` moves
the models, to another disk for example.
"""

import os
from pathlib import Path

import platformdirs

from app import settings

APP_NAME = "mc-chat"
HOME_VARIABLE = "MC_CHAT_HOME"


def _home() -> Path | None:
    home = os.environ.get(HOME_VARIABLE)
    return Path(home).expanduser().absolute() if home else None


def data_dir() -> Path:
    """Chats, and models unless they are elsewhere."""
    return _home() or platformdirs.user_data_path(APP_NAME, appauthor=False)


def models_dir() -> Path:
    """One folder per installed model. Raises UsageError for settings that cannot be read."""
    chosen = settings.load(settings_file()).models_dir
    return Path(chosen).expanduser() if chosen else data_dir() / "models"


def shown(path: Path | str) -> str:
    """A path for a report: the user's home, and so the user's name, is ``~``."""
    text, home = str(path), str(Path.home())
    inside = text == home or text.startswith(home + os.sep)
    return f"~{text[len(home) :]}" if inside and home != os.sep else text


def history_db() -> Path:
    """The SQLite file of all chats."""
    return data_dir() / "history.sqlite"


def jobs_dir() -> Path:
    """What the compressions of this machine have told, one file for each output folder."""
    return data_dir() / "jobs"


def load_choices_file() -> Path:
    """The device and the context that each model was chosen for."""
    return data_dir() / "load-choices.json"


def log_dir() -> Path:
    """What the engine's and the compression's processes wrote to standard error."""
    home = _home()
    return home / "logs" if home else platformdirs.user_log_path(APP_NAME, appauthor=False)


def settings_file() -> Path:
    """The TOML file of the user's settings."""
    home = _home()
    config = home or platformdirs.user_config_path(APP_NAME, appauthor=False)
    return config / "settings.toml"
