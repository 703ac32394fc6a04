"""The models of this machine: their names, their folders, and what a name given by a user means.

Free of torch and of the screen: only `mc.json` is read, so lists come up at once.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from app import jobs, paths
from app.pruning_words import known_prunings
from engine.errors import CheckpointError, UsageError
from engine.manifest import MANIFEST_NAME, Manifest, is_compressed, read_manifest
from engine.protocol import PruningMode

DEMO = "demo"
DEMO_BITS = 2.5
"""The demo fits anywhere, and at this width it has something to show: experts of mixed widths."""
UNFINISHED = ".partial"
"""What the name of a folder ends in while a model grows there."""


@dataclass(frozen=True)
class InstalledModel:
    """A compressed checkpoint under `paths.models_dir`; ``name`` is its folder's name."""

    name: str
    folder: Path
    manifest: Manifest

    @property
    def installed(self) -> float:
        """When it was, in seconds since 1970; 0 where it has just gone."""
        try:
            return (self.folder / MANIFEST_NAME).stat().st_mtime
        except OSError:
            return 0.0

    @property
    def prunings(self) -> tuple[PruningMode, ...]:
        """The ways to prune that it knows."""
        return known_prunings(self.manifest.otp)


@dataclass(frozen=True)
class DamagedModel:
    """A folder that claims to be a compressed checkpoint but whose `mc.json` cannot be read."""

    name: str
    folder: Path
    problem: str


def installed() -> list[InstalledModel]:
    """Every installed model whose manifest can be read, by name."""
    return [model for model in scan() if isinstance(model, InstalledModel)]


def damaged() -> list[DamagedModel]:
    """Every installed model whose manifest cannot be read, by name."""
    return [model for model in scan() if isinstance(model, DamagedModel)]


def scan() -> list[InstalledModel | DamagedModel]:
    """Both kinds, by name; not what is still on its way."""
    root = paths.models_dir()
    if not root.is_dir():
        return []
    folders = sorted(folder for folder in root.iterdir() if folder.suffix != UNFINISHED)
    return [_read(folder) for folder in folders if is_compressed(folder)]


def _read(folder: Path) -> InstalledModel | DamagedModel:
    try:
        return InstalledModel(folder.name, folder, read_manifest(folder))
    except CheckpointError as error:
        return DamagedModel(folder.name, folder, str(error))


def remove(name: str) -> int:
    """Delete a model under the models folder, never a folder elsewhere; returns the bytes freed.

    Raises UsageError for what is no installed model, is being made, or cannot be deleted.
    """
    folder = paths.models_dir() / name
    if folder.parent != paths.models_dir() or not is_compressed(folder):
        raise UsageError(f"{name!r} is no installed model; see `mc-chat models`")
    if any(job.out == folder for job in jobs.running_jobs()):
        raise UsageError(f"{name} is being compressed; stop that first")
    if jobs.running(jobs.publishing_place(folder)):
        raise UsageError(f"{name} is being published; stop that first")
    freed = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise UsageError(f"{name} cannot be removed: {error}") from None
    jobs.forget(folder)
    jobs.forget(jobs.publishing_place(folder))
    return freed


def demo_folder() -> Path:
    """Where the compressed build of the demo model lives."""
    return paths.models_dir() / DEMO


def demo_installed() -> bool:
    """Whether the demo model has been compressed on this machine."""
    return is_compressed(demo_folder())


def resolve(name: str) -> Path:
    """The folder of a model: an installed name, `demo`, or a folder of a checkpoint.

    An installed name wins over a folder of that name here; write ``./name`` for the folder.
    Raises CheckpointError saying what exists and what to do.
    """
    is_path = os.sep in name or name in {".", "..", "~"}
    if name and not is_path:
        folder = paths.models_dir() / name
        if is_compressed(folder):
            return folder
    given = Path(name).expanduser()
    if name and given.is_dir():
        return _checked(given)
    if name == DEMO:
        raise CheckpointError(
            "the demo model is not compressed yet; run `mc-chat compress demo` (about a minute)"
        )
    if is_path:
        raise CheckpointError(f"there is no folder {name}")
    raise CheckpointError(f"there is no model named {name!r}; {_what_exists()}")


def display_name(folder: Path) -> str:
    """What a model is called on the screen and in the history: the opposite of `resolve`."""
    return folder.name if folder.parent == paths.models_dir() else str(folder)


def _checked(folder: Path) -> Path:
    if is_compressed(folder) or (folder / "config.json").is_file():
        return folder.absolute()
    raise CheckpointError(
        f"{folder} is no model folder: it has neither mc.json (a compressed checkpoint) "
        "nor config.json (an original one)"
    )


def _what_exists() -> str:
    names = [model.name for model in installed()]
    if names:
        return f"installed: {', '.join(names)}"
    return "no model is installed; run `mc-chat compress demo` to make the demo model"
