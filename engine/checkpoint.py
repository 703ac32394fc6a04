"""Reads and writes compressed checkpoints; `docs` describes the format, `engine.layout` the bits.

A file is written under a temporary name, synced and renamed, so a name that exists is whole.
"""

import errno
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from engine.assembly import assemble
from engine.config import ModelConfig
from engine.errors import DiskFullError
from engine.experts import PackedExperts
from engine.kernels import Arena, select
from engine.layout import MATRICES, Matrix, PackedShape
from engine.linear import FloatLinear, Linear, PackedLinear
from engine.manifest import (
    DENSE_FILE,
    Manifest,
    is_compressed,
    layer_file,
    open_manifest,
)
from engine.model import Layer, Model, Norm
from engine.original import load_original
from engine.packing import PackedMatrix
from engine.tensor_file import TensorFile, write_tensors
from engine.tensor_names import dense_shapes, small_tensors

Projection = Literal["q", "k", "v", "o"]
PROJECTIONS: tuple[Projection, ...] = ("q", "k", "v", "o")

LoadListener = Callable[[float, str], None]
"""Hears what fraction of the model is loaded and, in a few words, what comes next."""


@dataclass(frozen=True)
class StoredLayer:
    """What the file of one layer holds, in the types it is stored in.

    ``rest``: what is in no matrix, by the names of `engine.tensor_names.small_tensors`, and,
    unless it is packed, `router.weight` [E, H], 16-bit. ``shared`` is empty without such an expert.
    """

    attention: dict[Projection, PackedMatrix]
    experts: PackedExperts
    rest: dict[str, Tensor]
    router: PackedMatrix | None = None
    shared: Mapping[Matrix, PackedMatrix] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredDense:
    """What the file of what belongs to no layer holds.

    ``rest``: `embed.weight` [V, H], `norm.weight` [H], and `head.weight` [V, H] unless it is
    packed or tied to the embeddings.
    """

    rest: dict[str, Tensor]
    head: PackedMatrix | None = None


def load_model(
    folder: Path, device: torch.device | str = "cpu", listener: LoadListener | None = None
) -> Model:
    """Load the model in ``folder``, compressed (it has an mc.json) or original.

    Raises CheckpointError or SourceError with one line on what is wrong.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # where Triton launches
    if is_compressed(folder):
        return _load_compressed(folder, device, listener or _silent)
    return load_original(folder, device)


def open_checkpoint(folder: Path) -> tuple[Manifest, ModelConfig]:
    """What a compressed checkpoint is, all checked but hashes. Raises CheckpointError or
    SourceError."""
    return open_manifest(folder), ModelConfig.from_folder(folder)


def write_layer(
    folder: Path,
    index: int,
    attention: Mapping[Projection, PackedMatrix],
    experts: PackedExperts,
    rest: Mapping[str, Tensor],
    router: PackedMatrix | None = None,
    shared: Mapping[Matrix, PackedMatrix] | None = None,
) -> Path:
    """Write the file of layer ``index``; returns its path. Raises DiskFullError.

    The contents are those of a `StoredLayer`.
    """
    tensors = {**rest, **_named("experts", experts.arena)}
    if router is not None:
        tensors |= _named("router", router)
    for name in PROJECTIONS:
        tensors |= _named(f"attention.{name}", attention[name])
    for matrix, packed in (shared or {}).items():
        tensors |= _named(f"shared.{matrix}", packed)
    return save_tensors(folder / layer_file(index), tensors)


def read_layer(
    folder: Path,
    manifest: Manifest,
    config: ModelConfig,
    index: int,
    device: torch.device | str = "cpu",
) -> StoredLayer:
    """Read the file of layer ``index``, the inverse of `write_layer`. Raises CheckpointError."""
    file = TensorFile(folder / layer_file(index), torch.device(device))
    group_size = manifest.recipe.group_size
    small = small_tensors(config, index)
    router = manifest.recipe.rest.router_shape(config, group_size)
    if router is not None:
        del small["router.weight"]
    rest = {name: file.floating(name, *original.shape) for name, original in small.items()}
    return StoredLayer(
        attention={
            name: file.packed(f"attention.{name}", shape)
            for name, shape in attention_shapes(config, group_size).items()
        },
        experts=PackedExperts(
            file.arena(
                config, manifest.layers[index].expert_bits, group_size, manifest.recipe.rotated
            )
        ),
        rest=rest,
        router=None if router is None else file.packed("router", router),
        shared={
            name: file.packed(f"shared.{name}", shape)
            for name, shape in shared_shapes(config, group_size).items()
        },
    )


def attention_shapes(config: ModelConfig, group_size: int) -> dict[Projection, PackedShape]:
    """The packed shape of each projection of a layer."""
    table = dense_shapes(config, group_size)
    return {name: table[f"attention.{name}"] for name in PROJECTIONS}


def shared_shapes(config: ModelConfig, group_size: int) -> dict[Matrix, PackedShape]:
    """The packed shape of each matrix of a layer's shared expert, none where it has none."""
    if not config.traits.shared_size:
        return {}
    table = dense_shapes(config, group_size)
    return {name: table[f"shared.{name}"] for name in MATRICES}


def write_dense(folder: Path, rest: Mapping[str, Tensor], head: PackedMatrix | None = None) -> Path:
    """Write what belongs to no layer; returns the file's path. Raises DiskFullError.

    The contents are those of a `StoredDense`.
    """
    packed = {} if head is None else _named("head", head)
    return save_tensors(folder / DENSE_FILE, {**rest, **packed})


def read_dense(
    folder: Path, manifest: Manifest, config: ModelConfig, device: torch.device | str = "cpu"
) -> StoredDense:
    """Read what belongs to no layer, the inverse of `write_dense`. Raises CheckpointError."""
    file = TensorFile(folder / DENSE_FILE, torch.device(device))
    size = (config.vocab_size, config.hidden_size)
    rest = {
        "embed.weight": file.floating("embed.weight", *size),
        "norm.weight": file.floating("norm.weight", config.hidden_size),
    }
    head = manifest.recipe.rest.head_shape(config, manifest.recipe.group_size)
    if head is None and not config.tie_embeddings:
        rest["head.weight"] = file.floating("head.weight", *size)
    return StoredDense(rest, None if head is None else file.packed("head", head))


def _named(prefix: str, packed: PackedMatrix | Arena) -> dict[str, Tensor]:
    return {
        f"{prefix}.codes": packed.codes,
        f"{prefix}.scales": packed.scales,
        f"{prefix}.zeros": packed.zeros,
    }


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write a safetensors file: temporary name, synced, renamed. Raises DiskFullError."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        write_tensors(temporary, tensors)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise DiskFullError(f"no space left to write {path}; free some and run again") from None
        raise
    return path


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _load_compressed(folder: Path, device: torch.device, listener: LoadListener) -> Model:
    """The files are read by a thread of their own while the kernels get ready."""
    manifest, config = open_checkpoint(folder)
    count = config.num_layers
    reader = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
    try:
        reading_dense = reader.submit(read_dense, folder, manifest, config, device)
        reading = [
            reader.submit(read_layer, folder, manifest, config, index, device)
            for index in range(count)
        ]
        listener(0.0, "kernels")
        select(device).warm()
        listener(0.0, "embeddings")
        dense = reading_dense.result()
        embed = dense.rest["embed.weight"]
        dtype = torch.float32 if device.type == "cpu" else embed.dtype
        if device.type == "cuda":
            listener(0.0, "kernels")
            _warm_gpu(device, manifest, config, dtype)
        layers = []
        for index, stored in enumerate(reading):
            listener(index / count, f"layer {index + 1} of {count}")
            layers.append(_layer(config, index, stored.result(), dtype))
    finally:
        reader.shutdown(cancel_futures=True)
    listener(1.0, "ready")
    norm = Norm(dense.rest["norm.weight"].to(dtype), config.rms_norm_eps)
    head: Linear
    if dense.head is None:
        head = FloatLinear(dense.rest.get("head.weight", embed))
    else:
        head = PackedLinear(dense.head)
    return Model(config, layers, embed, norm, head, dtype)


def _warm_gpu(
    device: torch.device, manifest: Manifest, config: ModelConfig, dtype: torch.dtype
) -> None:
    """Compile what a prompt and a step of the model will launch."""
    try:
        from engine.decoding.warming import Sizes, warm_prompts_and_steps
    except ImportError:  # `engine.kernels.describe` tells
        return
    widest = tuple(max(layer.expert_bits) for layer in manifest.layers)
    recipe = manifest.recipe
    sizes = Sizes(config, dtype, widest, recipe.group_size, recipe.rotated)
    warm_prompts_and_steps(sizes, device)


def _layer(config: ModelConfig, index: int, stored: StoredLayer, dtype: torch.dtype) -> Layer:
    """A layer that computes in ``dtype``."""

    def small(name: str) -> Tensor:
        return stored.rest[name].to(dtype)

    router: Linear
    if stored.router is None:
        router = FloatLinear(small("router.weight"))
    else:
        router = PackedLinear(stored.router)
    dense: dict[str, Linear] = {
        f"attention.{name}": PackedLinear(matrix) for name, matrix in stored.attention.items()
    }
    dense |= {f"shared.{name}": PackedLinear(matrix) for name, matrix in stored.shared.items()}
    return assemble(config, index, dense, small, router, stored.experts)


def _silent(fraction: float, stage: str) -> None:
    """Nobody listens."""
