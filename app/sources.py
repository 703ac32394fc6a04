"""What can be compressed here, and its shape. Free of torch."""

from dataclasses import dataclass
from pathlib import Path

from app import models, paths
from app.catalogue import ReadyBuild, ready_builds
from assets import DEMO_DIR
from compress import projection
from compress.quantizer_names import DEFAULT_QUANTIZER, is_rotated, sweeps_of
from engine.budget import GROUP_SIZE, STORED_BYTES, DeviceKind
from engine.config import MIXTRAL_8X7B, ModelConfig
from engine.errors import SourceError

MIXTRAL_REPOSITORY = "mistralai/Mixtral-8x7B-Instruct-v0.1"
"""Its shape is built in."""

_DEMO_WINDOWS, _WINDOWS, _CPU_WINDOWS = (64, 512), (128, 2048), (4, 2048)
_WIDE = 1024
"""What a job calibrates on, windows of so many tokens, and from which hidden size on a processor
takes fewer: as in `compress.calibration`, which takes a second to import."""

_WIDTHS, _PASSES = 3, 2
"""At which experts are tried, and how often the layers are gone through, unless told otherwise."""


@dataclass(frozen=True)
class SourceChoice:
    """A source as a person sees it. ``source`` is the folder of the original or a repository of
    the hub, None: to be named by the user first; ``name`` is what the compressed model will be
    called, its bits aside; ``preferred_bits`` is recommended wherever it fits, None: as many as
    fit. ``build``: nothing to compress, but this to download."""

    title: str
    name: str
    config: ModelConfig
    source: Path | str | None
    preferred_bits: float | None = None
    build: ReadyBuild | None = None

    def folder(self, bits: float) -> Path:
        """Where the compressed model goes; `demo` itself means the build at the usual width."""
        if self.build:
            return paths.models_dir() / self.name
        if self.name == models.DEMO and bits == models.DEMO_BITS:
            return models.demo_folder()
        return paths.models_dir() / f"{self.name}-{bits:g}bit"

    @property
    def download_bytes(self) -> int:
        """What comes over the network, about: 16 bits for each weight; 0 for a folder."""
        if self.build:
            return self.build.bytes
        return STORED_BYTES * self.config.total_weights if isinstance(self.source, str) else 0

    def calibration(self, kind: DeviceKind) -> tuple[int, int]:
        """Windows, and tokens of each, that a job on such a device calibrates on."""
        if self.name == models.DEMO:
            samples, window = _DEMO_WINDOWS
        elif kind == "cpu" and self.config.hidden_size >= _WIDE:
            samples, window = _CPU_WINDOWS
        else:
            samples, window = _WINDOWS
        return samples, min(window, self.config.max_context)

    def disk_bytes(self, bits: float, kind: DeviceKind, stay: projection.Stay = "streamed") -> int:
        """What a job of this width needs on the disk while it works, at most, where what is
        downloaded stays there so long."""
        if self.build:
            return self.build.bytes
        total = self.download_bytes
        download = projection.Download(total, min(total, projection.SHARD_BYTES))
        samples, window = self.calibration(kind)
        rotated = is_rotated(DEFAULT_QUANTIZER)
        experts = projection.expert_bytes(self.config, bits, GROUP_SIZE, rotated)
        return projection.disk_bytes(
            self.config, experts, GROUP_SIZE, samples * window, download, stay
        )

    def missing_disk(self, bits: float, kind: DeviceKind, free: int) -> int:
        """Bytes of disk, beside the ``free`` ones, without which a job reads the hub twice."""
        if self.build or not self.download_bytes:
            return 0
        return projection.missing_bytes(self.disk_bytes(bits, kind, "held"), free)

    def typical_hours(self) -> float:
        """Of computing on the two processor cores whose speed is known; any other machine is
        measured when a job begins."""
        samples, window = self.calibration("cpu")
        sweeps = sweeps_of(DEFAULT_QUANTIZER)
        work = projection.layer_work(self.config, samples, window, _WIDTHS, sweeps, _PASSES)
        seconds = sum(part.seconds(projection.TYPICAL_SPEED) for part in work.values())
        return self.config.num_layers * seconds / 3600


def result_folder(name: str, bits: float) -> Path:
    """Where a model of this name goes; `demo` itself means the build at the usual width."""
    if name == models.DEMO and bits == models.DEMO_BITS:
        return models.demo_folder()
    return paths.models_dir() / f"{name}-{bits:g}bit"


def named(text: str) -> SourceChoice:
    """What SOURCE means: `demo`, a folder, or a repository of the hub, of which at most the
    config.json is downloaded. A folder wins. Raises SourceError, NetworkError, HubError."""
    if text == models.DEMO:
        return demo()
    return remote(text) if is_repository(text) else local(text)


def is_repository(text: str) -> bool:
    """Whether this is written like `owner/name`, and there is no such folder here."""
    is_path = text.startswith((".", "/", "~")) or Path(text).is_dir()
    return not is_path and [bool(part) for part in text.split("/")] == [True, True]


def demo() -> SourceChoice:
    """The model that ships with mc-chat. Raises SourceError when its files are missing."""
    config = ModelConfig.from_folder(DEMO_DIR)
    return SourceChoice("the demo model", models.DEMO, config, DEMO_DIR, models.DEMO_BITS)


def mixtral() -> SourceChoice:
    """Mixtral 8x7B Instruct from the hub."""
    return _on_hub(MIXTRAL_REPOSITORY, MIXTRAL_8X7B)


def unnamed() -> SourceChoice:
    """An original that the user has yet to name: planned for as if it were Mixtral 8x7B."""
    return SourceChoice("Mixtral 8x7B", "mixtral", MIXTRAL_8X7B, None)


def ready() -> list[SourceChoice]:
    """The ready builds of Mixtral 8x7B Instruct, none where the catalogue has none. Raises
    SourceError when the catalogue is damaged."""
    return [_ready(build) for build in ready_builds(MIXTRAL_REPOSITORY)]


def _ready(build: ReadyBuild) -> SourceChoice:
    name = build.repository.split("/")[1]
    return SourceChoice(build.title, name, MIXTRAL_8X7B, None, build.nominal_bits, build)


def remote(repository: str) -> SourceChoice:
    """A repository of the hub. Raises NetworkError, HubError, SourceError."""
    if repository == MIXTRAL_REPOSITORY:
        return mixtral()
    from compress.hub import fetch_config  # only where it is needed: it takes its time

    return _on_hub(
        repository, ModelConfig.from_folder(fetch_config(repository, paths.data_dir()).parent)
    )


def repository_name(repository: str) -> str:
    """What a model that is made from it will be called, its bits aside."""
    return repository.split("/")[1].lower()


def _on_hub(repository: str, config: ModelConfig) -> SourceChoice:
    title = repository.split("/")[1]
    return SourceChoice(title, repository_name(repository), config, repository)


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
