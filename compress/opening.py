"""Opens what a job compresses: a folder, or a repository of the hub whose shards are streamed."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from compress.companions import COMPANIONS
from compress.hub import (
    HubRepository,
    HubShards,
    download,
    is_repository_name,
    open_repository,
    unheard,
)
from compress.progress import Transfer
from compress.projection import NETWORK_BYTES_PER_SECOND, Download, Stay
from compress.source import Source, open_folder, reading_order, tensor_names
from compress.workspace import SOURCE_FOLDER, partial_folder
from engine.config import ModelConfig
from engine.errors import HubError, NetworkError, SourceError
from engine.original import INDEX_FILE, SINGLE_FILE, tensor_files


def is_on_hub(source: Path | str) -> bool:
    """Whether a job's source is a repository and not a folder; a folder of that name wins."""
    return isinstance(source, str) and is_repository_name(source) and not Path(source).is_dir()


def source_folder(source: Path | str, out: Path, keep: bool) -> Path:
    """Where the files of a source are or will be; kept ones lie beside the result."""
    if not is_on_hub(source):
        return Path(source)
    if keep:
        return out.parent / f"{str(source).replace('/', '--')}.source"
    return partial_folder(out) / SOURCE_FOLDER


@contextmanager
def opened_source(
    source: Path | str,
    folder: Path,
    passes: int,
    keep: bool,
    offline: bool,
    listener: Callable[[Transfer], None],
) -> Iterator[Source]:
    """Open a source whose files are, or will be, in ``folder``; closes it at the end.

    A repository's weights are downloaded when they are asked for, in order, ``passes`` times,
    unless huggingface_hub's cache has them all. Raises SourceError, NetworkError, HubError.
    """
    if not is_on_hub(source):
        yield open_folder(folder)
        return
    cached = _cached(str(source), folder)
    if cached is not None:
        yield cached
        return
    try:
        opened = _open_repository(str(source), folder, passes, keep, offline, listener)
    except (SourceError, HubError):
        if keep and not _weights(folder):
            shutil.rmtree(folder, ignore_errors=True)  # no original that could be kept
        raise
    try:
        yield opened
    finally:
        opened.shards.close()


def _open_repository(
    name: str,
    folder: Path,
    passes: int,
    keep: bool,
    offline: bool,
    listener: Callable[[Transfer], None],
) -> Source:
    repository = open_repository(name, folder, offline=offline)
    _refuse_pickles(repository)
    for companion in ("config.json", INDEX_FILE, *COMPANIONS):
        if repository.has(companion):
            download(repository, repository.file(companion), folder, unheard)
        else:  # of another repository, which this one takes the place of
            (folder / companion).unlink(missing_ok=True)
    config = ModelConfig.from_folder(folder)
    weight_map = _weight_map(repository, folder, config)
    order = reading_order(weight_map, config)
    orders = [reading_order(weight_map, config, is_last=False)] * (passes - 1) + [order]
    shards = HubShards(repository, folder, keep, listener, orders)
    hashes = {name: repository.file(name).sha256 or "" for name in order}
    opened = Source(
        folder, config, weight_map, shards, repository.repository, repository.revision, hashes
    )
    opened.check()
    return opened


def _cached(name: str, folder: Path) -> Source | None:
    """A repository that is whole in huggingface_hub's cache, as a folder. None for any other, and
    where a run in ``folder`` has begun with another commit."""
    config = try_to_load_from_cache(name, "config.json")
    if not isinstance(config, str):
        return None
    snapshot = Path(config).parent
    try:
        tensor_files(snapshot)
    except SourceError:
        return None
    try:
        if open_repository(name, folder, offline=True).revision != snapshot.name:
            return None
    except NetworkError:
        pass  # no run has begun
    return replace(open_folder(snapshot), repository=name, revision=snapshot.name)


def is_streamed(source: Source) -> bool:
    """Whether its weights are downloaded while they are used."""
    return isinstance(source.shards, HubShards)


def hold(source: Source) -> None:
    """Have what is downloaded stay until the last pass has read it."""
    assert isinstance(source.shards, HubShards)
    source.shards.hold()


def passes_message(download: Download, passes: int, stay: Stay, missing: int) -> str:
    """What several passes over a download mean, one line for people; ``missing`` bytes of disk
    would make it one download."""
    needs = f"needs {passes} passes over the source"
    total = f"{download.total / 1e9:.1f} GB"
    if stay == "kept":
        return f"{needs}: downloads it once and keeps it, {total}"
    if stay == "held":
        return f"{needs}: downloads it once, {total}, and keeps it on the disk in between"
    times = {2: "twice"}.get(passes, f"{passes} times")
    more = (passes - 1) * download.total
    hours = more / NETWORK_BYTES_PER_SECOND / 3600
    return (
        f"{needs}: downloads it {times}, {passes * download.total / 1e9:.1f} GB in all, since the "
        f"disk has no room to keep it in between ({missing / 1e9:.1f} GB more would do): that is "
        f"{hours:.1f} hours more at 100 Mbit/s"
    )


def download_of(source: Source) -> Download:
    """What is downloaded of its weights."""
    if not is_streamed(source):
        return Download()
    repository = open_repository(source.repository, source.folder, offline=True)
    sizes = [repository.file(name).size for name in set(source.weight_map.values())]
    return Download(sum(sizes), max(sizes))


def _weights(folder: Path) -> list[Path]:
    """What has been downloaded of the weights, half a shard included."""
    found = folder.glob("*.safetensors*")
    return [path for path in found if not path.name.startswith(INDEX_FILE)]


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
