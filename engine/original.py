"""Reads an original Mixtral: a folder of safetensors as transformers writes it.

In a file, expert k's gate is `block_sparse_moe.experts.k.w1`, up is `w3`, down is `w2`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine import manifest
from engine.attention import Attention
from engine.config import ModelConfig
from engine.errors import CheckpointError, SourceError
from engine.experts import Experts, FloatExperts
from engine.layout import MATRICES, Matrix, matrix_shape
from engine.linear import FloatLinear
from engine.model import Layer, Model, Norm

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
DISK_NAMES: dict[Matrix, str] = {"gate": "w1", "up": "w3", "down": "w2"}

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
            raise SourceError(f"{self._folder} has no tensor {name}: it is not a whole Mixtral")
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
    dtype = torch.float32 if device.type == "cpu" else get("model.norm.weight").dtype

    def read(name: str) -> Tensor:
        return get(name).to(device, dtype)

    layers = [original_layer(config, index, read) for index in range(config.num_layers)]
    embed = read("model.embed_tokens.weight")
    head = embed if config.tie_embeddings else read("lm_head.weight")
    norm = Norm(read("model.norm.weight"), config.rms_norm_eps)
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
    prefix = f"model.layers.{index}.block_sparse_moe.experts.{expert}"
    return {
        name: _shaped(
            read,
            f"{prefix}.{DISK_NAMES[name]}",
            *matrix_shape(name, config.hidden_size, config.intermediate_size),
        )
        for name in MATRICES
    }


def layer_around(config: ModelConfig, index: int, read: TensorReader, experts: Experts) -> Layer:
    """Build layer ``index`` with ``experts`` in place of its own.

    Raises SourceError like `original_layer`.
    """
    prefix = f"model.layers.{index}"
    hidden = config.hidden_size
    queries = config.num_heads * config.head_dim
    keys = config.num_kv_heads * config.head_dim

    def tensor(name: str, *shape: int) -> Tensor:
        return _shaped(read, f"{prefix}.{name}", *shape)

    return Layer(
        index=index,
        input_norm=Norm(tensor("input_layernorm", hidden), config.rms_norm_eps),
        attention=Attention(
            q=FloatLinear(tensor("self_attn.q_proj", queries, hidden)),
            k=FloatLinear(tensor("self_attn.k_proj", keys, hidden)),
            v=FloatLinear(tensor("self_attn.v_proj", keys, hidden)),
            o=FloatLinear(tensor("self_attn.o_proj", hidden, queries)),
            head_dim=config.head_dim,
            window=config.sliding_window,
        ),
        post_norm=Norm(tensor("post_attention_layernorm", hidden), config.rms_norm_eps),
        router=FloatLinear(tensor("block_sparse_moe.gate", config.num_experts, hidden)),
        experts=experts,
        top_k=config.top_k,
    )


def _shaped(read: TensorReader, name: str, *shape: int) -> Tensor:
    found = read(f"{name}.weight")
    if found.shape != shape:
        raise SourceError(f"{name} has shape {tuple(found.shape)}, config.json says {shape}")
    return found
