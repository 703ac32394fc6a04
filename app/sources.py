"""What can be compressed here, and its shape. Free of torch."""

from dataclasses import dataclass
from pathlib import Path

from app import models, paths
from assets import DEMO_DIR
from engine.config import MIXTRAL_8X7B, ModelConfig
from engine.errors import SourceError


@dataclass(frozen=True)
class SourceChoice:
    """A source as a person sees it. ``source`` is the folder of the original, None: to be named by
    the user first; ``name`` is what the compressed model will be called, its bits aside;
    ``preferred_bits`` is recommended wherever it fits, None: as many as fit."""

    title: str
    name: str
    config: ModelConfig
    source: Path | None
    preferred_bits: float | None = None

    def folder(self, bits: float) -> Path:
        """Where the compressed model goes; `demo` itself means the build at the usual width."""
        if self.name == models.DEMO and bits == models.DEMO_BITS:
            return models.demo_folder()
        return paths.models_dir() / f"{self.name}-{bits:g}bit"


def named(text: str) -> SourceChoice:
    """What SOURCE means in a command: `demo` or a folder. Raises SourceError."""
    return demo() if text == models.DEMO else local(text)


def demo() -> SourceChoice:
    """The model that ships with mc-chat. Raises SourceError when its files are missing."""
    config = ModelConfig.from_folder(DEMO_DIR)
    return SourceChoice("the demo model", models.DEMO, config, DEMO_DIR, models.DEMO_BITS)


def mixtral() -> SourceChoice:
    """Mixtral 8x7B, of which only the shape is built in."""
    return SourceChoice("Mixtral 8x7B Instruct", "mixtral-8x7b", MIXTRAL_8X7B, None)


def local(text: str) -> SourceChoice:
    """An original checkpoint in a folder that the user named. Raises SourceError."""
    folder = Path(text.strip()).expanduser()
    if not folder.is_dir():
        raise SourceError(f"there is no folder {folder}; name the original's folder")
    folder = folder.resolve()  # "." has no name
    if not any(folder.glob("*.safetensors")):
        raise SourceError(
            f"{folder} holds no *.safetensors file: the original's weights are needed"
        )
    config = ModelConfig.from_folder(folder)
    return SourceChoice(folder.name, folder.name, config, folder)
