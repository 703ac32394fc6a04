"""Reads an original model: a folder of safetensors as transformers writes it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine import manifest
from engine.assembly import assemble
from engine.config import ModelConfig
from engine.errors import CheckpointError, SourceError
from engine.experts import Experts, FloatExperts
from engine.layout import MATRICES, Matrix
from engine.linear import FloatLinear
from engine.model import Layer, Model, Norm
from engine.tensor_names import (
    EMBEDDING,
    HEAD,
    NORM,
    Original,
    dense_matrices,
    expert_matrix,
    small_tensors,
)

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

TensorReader = Callable[[str], Tensor]
"""Gives the tensor of a name in the original checkpoint."""


class OriginalFolder:
    """The tensors of a folder, read one by one through memory maps."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[Path, Any] = {}
        self._files = tensor_files(folder)

    def get(self, name: str) -> Tensor:
        """One tensor as stored. Raises SourceError when it is missing or its file is damaged."""
        file = self._files.get(name)
        if file is None:
            raise SourceError(f"{self._folder} has no tensor {name}: it is not a whole model")
        try:
            if file not in self._open:
                self._open[file] = safe_open(file, framework="pt")
            tensor: Tensor = self._open[file].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise SourceError(f"{file} cannot be read: {error}") from None
        return tensor


def tensor_files(folder: Path) -> dict[str, Path]:
    """The file of each tensor of an original checkpoint, every header checked.

    Raises SourceError when weights are missing, pickled, cut short, or out of the folder.
    """
    index, single = folder / INDEX_FILE, folder / SINGLE_FILE
    if index.is_file():
        return _read_index(index)
    if single.is_file():
        _check_shard(single)
        with safe_open(single, framework="pt") as file:
            return dict.fromkeys(file.keys(), single)
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        raise SourceError(
            f"{folder} holds pickled weights (.bin or .pt), which can run code when they are "
            "opened; get the safetensors version"
        )
    raise SourceError(f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}: it holds no weights")


def _read_index(index: Path) -> dict[str, Path]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = {str(name): index.parent / str(shard) for name, shard in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise SourceError(f"{index} is damaged ({error!r}); download it again") from None
    for path in sorted(set(files.values())):
        if path.parent != index.parent:
            raise SourceError(f"{index} points out of its folder, to {path}")
        _check_shard(path)
    return files


def _check_shard(path: Path) -> None:
    """A shard's header must be whole and cover its bytes."""
    if not path.is_file():
        raise SourceError(f"the shard {path} is missing: the download is not complete")
    try:
        manifest.check_header(path)
    except CheckpointError as error:
        raise SourceError(f"{error}; download it again") from None


def load_original(folder: Path, device: torch.device) -> Model:
    """Load a whole original model. On a CPU its weights become float32, the compute type.

    Raises SourceError.
    """
    config = ModelConfig.from_folder(folder)
    get = OriginalFolder(folder).get
    dtype = torch.float32 if device.type == "cpu" else get(NORM).dtype

    def read(name: str) -> Tensor:
        return get(name).to(device, dtype)

    layers = [original_layer(config, index, read) for index in range(config.num_layers)]
    embed = read(EMBEDDING)
    head = embed if config.tie_embeddings else read(HEAD)
    norm = Norm(read(NORM), config.rms_norm_eps)
    return Model(config, layers, embed, norm, FloatLinear(head), dtype)


def original_layer(config: ModelConfig, index: int, read: TensorReader) -> Layer:
    """Build layer ``index`` from the tensors that ``read`` gives, in their type and place.

    Raises SourceError for a tensor whose shape is not the configuration's.
    """
    every = [original_expert(config, index, k, read) for k in range(config.num_experts)]
    gate, up, down = (torch.stack([expert[name] for expert in every]) for name in MATRICES)
    return layer_around(config, index, read, FloatExperts(gate, up, down))


def original_expert(
    config: ModelConfig, index: int, expert: int, read: TensorReader
) -> dict[Matrix, Tensor]:
    """The matrices of one expert of layer ``index``: gate and up [I, H], down [H, I].

    Raises SourceError like `original_layer`.
    """
    return {name: _shaped(read, expert_matrix(config, index, expert, name)) for name in MATRICES}


def layer_around(config: ModelConfig, index: int, read: TensorReader, experts: Experts) -> Layer:
    """Build layer ``index`` with ``experts`` in place of its own.

    Raises SourceError like `original_layer`.
    """
    dense = {
        name: FloatLinear(_shaped(read, original))
        for name, original in dense_matrices(config, index).items()
    }
    small = {
        name: _shaped(read, original) for name, original in small_tensors(config, index).items()
    }
    router = FloatLinear(small["router.weight"])
    return assemble(config, index, dense, small.__getitem__, router, experts)


def _shaped(read: TensorReader, original: Original) -> Tensor:
    found = read(original.name)
    if found.shape != original.shape:
        raise SourceError(
            f"{original.name} has shape {tuple(found.shape)}, config.json says {original.shape}"
        )
    return found
