"""An original checkpoint, read tensor by tensor from safetensors files.

A `Source` knows in which shard every tensor lies and reads one when it is asked for, so that never
more than one expert is in memory, and never more shards on the disk than are in use. Only
safetensors are read: nothing is ever unpickled.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from compress.routed import Expert, StreamedExperts
from engine import manifest
from engine.config import ModelConfig
from engine.errors import SourceError
from engine.model import Layer
from engine.original import layer_around, original_expert, tensor_files
from engine.tensor_names import EMBEDDING, HEAD, NORM, layer_names, small_tensors

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


class Shards(Protocol):
    """The files that hold the weights, wherever they come from."""

    def fetch(self, name: str) -> Path:
        """The path of a shard, whole, once it is there."""

    def begin_pass(self, left: int) -> None:
        """A pass over the shards begins; ``left`` are to come, this one counted."""

    def done_with(self, name: str) -> None:
        """The shard is not needed any more in this pass; a downloaded one may go."""

    def close(self) -> None:
        """Stop whatever runs in the background."""


@dataclass(frozen=True)
class LocalShards:
    """Shards that lie in a folder, and stay there."""

    folder: Path

    def fetch(self, name: str) -> Path:
        """It is there."""
        return self.folder / name

    def begin_pass(self, left: int) -> None:
        """One is as any other."""

    def done_with(self, name: str) -> None:
        """It stays."""

    def close(self) -> None:
        """Nothing runs."""


@dataclass(frozen=True)
class Source:
    """A checkpoint: its shape, and the shard that holds each tensor.

    ``folder`` has config.json and the tokenizer's files; ``weight_map`` names the shard of each
    tensor. ``repository`` and ``revision`` name the source in the manifest of what is made from
    it; ``hashes`` are those of the shards where they are known without reading them.
    """

    folder: Path
    config: ModelConfig
    weight_map: Mapping[str, str]
    shards: Shards
    repository: str
    revision: str = ""
    hashes: Mapping[str, str] | None = None

    def tensor(self, name: str) -> Tensor:
        """Read one tensor as stored: 16-bit or float32.

        Raises SourceError when it is missing, unreadable or not all finite numbers.
        """
        shard = self.weight_map.get(name)
        if shard is None:
            raise SourceError(f"{self.repository} has no tensor {name}: it is not a whole model")
        path = self.shards.fetch(shard)
        try:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise SourceError(f"{path} cannot be read: {error}; download it again") from None
        if tensor.dtype not in _DTYPES:
            raise SourceError(
                f"{name} in {path} is {tensor.dtype}; only 16- and 32-bit floats are compressed"
            )
        if not torch.isfinite(tensor).all():
            raise SourceError(f"{name} in {path} holds infinities or NaNs: download it again")
        return tensor

    def layer(self, index: int, device: torch.device | str = "cpu") -> Layer:
        """Read one layer to a device, all but its experts in float32.

        Those, nearly all of it, are read one by one when they are asked for. Raises
        SourceError.
        """

        def read(name: str) -> Tensor:
            return self.tensor(name).to(device, torch.float32)

        def expert(k: int) -> Expert:
            matrices = original_expert(self.config, index, k, self.tensor)
            return Expert.of(**matrices, device=device)

        experts = StreamedExperts(self.config.num_experts, expert)
        return layer_around(self.config, index, read, experts)

    def layer_tensors(self, index: int) -> dict[str, Tensor]:
        """What stays 16-bit of a layer, by its name in a compressed checkpoint."""
        table = small_tensors(self.config, index)
        return {name: self.half(original.name) for name, original in table.items()}

    def half(self, name: str) -> Tensor:
        """A tensor in 16 bits: its own, or float16 for float32."""
        tensor = self.tensor(name)
        if tensor.dtype != torch.float32:
            return tensor
        if tensor.abs().max() > torch.finfo(torch.float16).max:
            return tensor.bfloat16()  # less precise, but with float32's range
        return tensor.half()

    def check(self) -> None:
        """See that every tensor of the model has a shard. Raises SourceError naming the first."""
        names = tensor_names(self.config)
        missing = next((name for name in names if name not in self.weight_map), None)
        if missing:
            raise SourceError(f"{self.repository} has no tensor {missing}: it is not a whole model")

    def release(self, layer: int) -> None:
        """Say that everything up to and with this layer has been read, in this pass."""
        for shard, last in self._last_uses().items():
            if last == layer:
                self.shards.done_with(shard)

    def resume(self, layer: int) -> None:
        """Say that a run begins with this layer: of the shards that it lies on, the one that came
        first may still be there, and the others come behind it."""
        order = reading_order(self.weight_map, self.config)
        needed = {
            self.weight_map[name]
            for name in tensor_names(self.config)
            if _read_with(name, self.config) == layer
        }
        self.shards.fetch(min(needed, key=order.index))

    def outside(self, layer: int) -> list[str]:
        """The tensors outside the layers to read while ``layer`` is, -1: before the first. They
        are those that lie in a shard which is in use then; what shares none comes after the last.
        """
        return [name for name in _ends(self.config) if self._first_use(name) == layer]

    def _first_use(self, name: str) -> int:
        """The layer while which a tensor outside the layers is read."""
        shard = self.weight_map[name]
        sharing = [other for other in tensor_names(self.config) if self.weight_map[other] == shard]
        return min(_read_with(other, self.config) for other in sharing)

    def _last_uses(self) -> dict[str, int]:
        """The layer after which each shard is not needed any more."""
        last: dict[str, int] = {}
        for name in tensor_names(self.config):
            is_end = name in _ends(self.config)
            use = self._first_use(name) if is_end else _read_with(name, self.config)
            shard = self.weight_map[name]
            last[shard] = max(use, last.get(shard, -1))
        return last

    def provenance(self, listener: Callable[[float], None] | None = None) -> manifest.Source:
        """Name, revision and hash of config.json and of all weight files, read in full where
        their hashes are not known.

        ``listener`` hears the fraction of bytes read, 0 to 1.
        """
        digest = hashlib.sha256()

        def add(name: str, sha256: str) -> None:
            digest.update(f"{name} {sha256}\n".encode())

        config = self.folder / "config.json"
        add(config.name, manifest.sha256_file(config))
        shards = sorted(set(self.weight_map.values()))
        if self.hashes is not None:
            for name in shards:
                add(name, self.hashes[name])
        else:
            sizes = {name: self.shards.fetch(name).stat().st_size for name in shards}
            done = 0
            for name, size in sizes.items():
                add(name, manifest.sha256_file(self.shards.fetch(name)))
                done += size
                if listener:
                    listener(done / sum(sizes.values()))
        return manifest.Source(self.repository, self.revision, digest.hexdigest())


def _ends(config: ModelConfig) -> list[str]:
    """The names on disk of the tensors outside the layers."""
    names = [EMBEDDING, NORM]
    return names if config.tie_embeddings else [*names, HEAD]


def tensor_names(config: ModelConfig) -> list[str]:
    """The names on disk of every tensor of a model."""
    names = _ends(config)
    for layer in range(config.num_layers):
        names += layer_names(config, layer)
    return names


def reading_order(
    weight_map: Mapping[str, str], config: ModelConfig, is_last: bool = True
) -> list[str]:
    """The shards in the order in which a pass over a model first needs them; norm and head are
    read in the last one only."""
    names = [name for name in tensor_names(config) if name in weight_map]
    names.sort(key=lambda name: _read_with(name, config))
    if not is_last:
        names = [name for name in names if _read_with(name, config) < config.num_layers]
    return list(dict.fromkeys(weight_map[name] for name in names))


def _read_with(name: str, config: ModelConfig) -> int:
    """The layer that a tensor is read with: the embeddings before the first, norm and head after
    the last."""
    parts = name.split(".")
    if name == EMBEDDING:
        return -1
    return int(parts[2]) if parts[1] == "layers" else config.num_layers


def open_folder(folder: Path) -> Source:
    """Open a folder in the layout of the Hugging Face hub; reads headers only.

    Raises SourceError when it is no folder, no model, not safetensors, or a shard is missing or
    truncated.
    """
    if not folder.is_dir():
        raise SourceError(f"there is no folder {folder}")
    config = ModelConfig.from_folder(folder)
    weight_map = {name: path.name for name, path in tensor_files(folder).items()}
    source = Source(folder, config, weight_map, LocalShards(folder), folder.resolve().name)
    source.check()
    return source
