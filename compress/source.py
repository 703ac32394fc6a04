"""An original Mixtral checkpoint, read tensor by tensor from safetensors files.

A `Source` knows where every tensor lies and reads one when it is asked for, so that never more
than a layer of the model is in memory. Only safetensors are read: nothing is ever unpickled.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine import manifest
from engine.config import ModelConfig
from engine.errors import SourceError
from engine.model import Layer
from engine.original import original_layer, tensor_files

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Source:
    """A checkpoint folder: its shape, and the file that holds each tensor.

    ``repository`` and ``revision`` name it in the manifest of what is made from it.
    """

    folder: Path
    config: ModelConfig
    files: Mapping[str, Path]
    repository: str
    revision: str = ""

    def tensor(self, name: str) -> Tensor:
        """Read one tensor as stored: 16-bit or float32.

        Raises SourceError when it is missing, unreadable or not all finite numbers.
        """
        path = self.files.get(name)
        if path is None:
            raise SourceError(f"{self.folder} has no tensor {name}: it is not a whole Mixtral")
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

    def layer(self, index: int) -> Layer:
        """Read one layer: experts, nearly all of it, as stored; the rest in float32, the type that
        calibration computes in. Raises SourceError."""

        def read(name: str) -> Tensor:
            tensor = self.tensor(name)
            return tensor if ".experts." in name else tensor.float()

        return original_layer(self.config, index, read)

    def layer_tensors(self, index: int) -> dict[str, Tensor]:
        """What stays 16-bit of a layer, by its name in a compressed checkpoint."""
        prefix = f"model.layers.{index}."
        return {
            "router.weight": self._half(prefix + "block_sparse_moe.gate.weight"),
            "input_norm.weight": self._half(prefix + "input_layernorm.weight"),
            "post_norm.weight": self._half(prefix + "post_attention_layernorm.weight"),
        }

    def dense_tensors(self) -> dict[str, Tensor]:
        """What lies outside the layers, 16-bit, by its name in a compressed checkpoint."""
        tensors = {
            "embed.weight": self._half("model.embed_tokens.weight"),
            "norm.weight": self._half("model.norm.weight"),
        }
        if not self.config.tie_embeddings:
            tensors["head.weight"] = self._half("lm_head.weight")
        return tensors

    def _half(self, name: str) -> Tensor:
        """A tensor in 16 bits: its own, or float16 for float32."""
        tensor = self.tensor(name)
        if tensor.dtype != torch.float32:
            return tensor
        if tensor.abs().max() > torch.finfo(torch.float16).max:
            return tensor.bfloat16()  # less precise, but with float32's range
        return tensor.half()

    def check(self) -> None:
        """See that every tensor of the model has a file. Raises SourceError naming the first."""
        missing = next((name for name in tensor_names(self.config) if name not in self.files), None)
        if missing:
            raise SourceError(f"{self.folder} has no tensor {missing}: it is not a whole Mixtral")

    def provenance(self, listener: Callable[[float], None] | None = None) -> manifest.Source:
        """Name, revision and hash of config.json and of all weight files, read in full.

        ``listener`` hears the fraction of bytes read, 0 to 1.
        """
        paths = [self.folder / "config.json", *sorted(set(self.files.values()))]
        total = sum(path.stat().st_size for path in paths)
        digest, done = hashlib.sha256(), 0
        for path in paths:
            digest.update(f"{path.name} {manifest.sha256_file(path)}\n".encode())
            done += path.stat().st_size
            if listener:
                listener(done / total)
        return manifest.Source(self.repository, self.revision, digest.hexdigest())


def tensor_names(config: ModelConfig) -> list[str]:
    """The names on disk of every tensor of a model."""
    names = ["model.embed_tokens.weight", "model.norm.weight"]
    if not config.tie_embeddings:
        names.append("lm_head.weight")
    experts = [
        f"block_sparse_moe.experts.{expert}.{matrix}"
        for expert in range(config.num_experts)
        for matrix in ("w1", "w2", "w3")
    ]
    per_layer = [
        *(f"self_attn.{name}_proj" for name in "qkvo"),
        *("block_sparse_moe.gate", "input_layernorm", "post_attention_layernorm"),
        *experts,
    ]
    names += [
        f"model.layers.{layer}.{name}.weight"
        for layer in range(config.num_layers)
        for name in per_layer
    ]
    return names


def open_source(folder: Path) -> Source:
    """Open a folder in the layout of the Hugging Face hub; reads headers only.

    Raises SourceError when it is no folder, no Mixtral, not safetensors, or a shard is missing or
    truncated.
    """
    if not folder.is_dir():
        raise SourceError(f"there is no folder {folder}")
    config = ModelConfig.from_folder(folder)
    source = Source(folder, config, tensor_files(folder), repository=folder.resolve().name)
    source.check()
    return source
