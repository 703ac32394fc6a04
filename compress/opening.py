"""Opens what a job compresses: a folder, or a repository of the hub whose shards are streamed."""

import json
from collections.abc import Callable
from pathlib import Path

from compress.companions import COMPANIONS
from compress.hub import (
    HubRepository,
    HubShards,
    Transfer,
    download,
    is_repository_name,
    open_repository,
)
from compress.source import Source, open_folder, reading_order, tensor_names
from engine.config import ModelConfig
from engine.errors import SourceError
from engine.original import INDEX_FILE, SINGLE_FILE

SOURCE_FOLDER = "source"
"""Where shards are while they are needed, inside the folder that the result grows in."""


def is_on_hub(source: Path | str) -> bool:
    """Whether a job's source is a repository and not a folder; a folder of that name wins."""
    return isinstance(source, str) and is_repository_name(source) and not Path(source).is_dir()


def source_folder(source: Path | str, out: Path, keep: bool) -> Path:
    """Where the files of a source are or will be; kept ones lie beside the result."""
    if not is_on_hub(source):
        return Path(source)
    if keep:
        return out.parent / f"{str(source).replace('/', '--')}.source"
    return out.with_name(f"{out.name}.partial") / SOURCE_FOLDER


def open_source(
    source: Path | str,
    folder: Path,
    passes: int,
    keep: bool,
    offline: bool,
    listener: Callable[[Transfer], None],
) -> Source:
    """Open a source whose files are, or will be, in ``folder``.

    A repository's weights are downloaded when they are asked for, in order, ``passes`` times.
    Raises SourceError, NetworkError, HubError.
    """
    if not is_on_hub(source):
        return open_folder(folder)
    repository = open_repository(str(source), folder, offline=offline)
    _refuse_pickles(repository)
    for name in ("config.json", INDEX_FILE, *COMPANIONS):
        if repository.has(name):
            download(repository, repository.file(name), folder, _silent)
    config = ModelConfig.from_folder(folder)
    weight_map = _weight_map(repository, folder, config)
    order = reading_order(weight_map, config, passes)
    shards = HubShards(repository, folder, keep, listener, order)
    hashes = {name: repository.file(name).sha256 or "" for name in order}
    opened = Source(
        folder, config, weight_map, shards, repository.repository, repository.revision, hashes
    )
    opened.check()
    return opened


def weight_bytes(source: Path | str, folder: Path, offline: bool) -> tuple[int, int]:
    """Bytes of the weights that a repository would download: all, and the largest file.

    Raises NetworkError, HubError.
    """
    repository = open_repository(str(source), folder, offline=offline)
    sizes = [file.size for file in repository.files if file.name.endswith(".safetensors")]
    return sum(sizes), max(sizes, default=0)


def _refuse_pickles(repository: HubRepository) -> None:
    if not repository.has(INDEX_FILE) and not repository.has(SINGLE_FILE):
        pickled = any(file.name.endswith((".bin", ".pt", ".pth")) for file in repository.files)
        raise SourceError(
            f"{repository.repository} holds only pickled weights (.bin or .pt), which can run "
            "code when they are opened; name a repository with safetensors"
            if pickled
            else f"{repository.repository} holds no safetensors weights: name an original Mixtral"
        )


def _weight_map(repository: HubRepository, folder: Path, config: ModelConfig) -> dict[str, str]:
    if not repository.has(INDEX_FILE):
        return dict.fromkeys(tensor_names(config), SINGLE_FILE)
    try:
        raw = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"]
        return {str(name): str(shard) for name, shard in raw.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(
            f"the {INDEX_FILE} of {repository.repository} is damaged ({error!r})"
        ) from None


def _silent(done: int) -> None:
    """Small files come at once."""
