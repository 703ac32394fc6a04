"""Writes a compressed checkpoint: a layer's file, what lies outside the layers, and `mc.json`."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from compress.companions import COMPANIONS
from compress.layers import QuantizedLayer
from compress.source import Source
from engine import budget
from engine.checkpoint import sync, write_dense, write_layer
from engine.config import ModelConfig
from engine.experts import PackedExperts
from engine.layout import arena_layout
from engine.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    FileRecord,
    LayerRecord,
    Manifest,
    Recipe,
    Sizes,
    sha256_file,
)
from engine.manifest import Source as Provenance
from engine.original import TensorReader
from engine.packing import PackedMatrix
from engine.tensor_names import EMBEDDING, HEAD, NORM


def write_layer_file(
    folder: Path,
    source: Source,
    index: int,
    layer: QuantizedLayer,
) -> FileRecord:
    """Write one layer; returns its size and hash. Raises DiskFullError."""
    arena = PackedExperts.from_matrices(layer.experts)
    rest = source.layer_tensors(index)
    if layer.router is not None:
        del rest["router.weight"]
    path = write_layer(folder, index, layer.attention, arena, rest, layer.router, layer.shared)
    return file_record(path)


def file_record(path: Path) -> FileRecord:
    """Size and hash of a file."""
    return FileRecord(path.stat().st_size, sha256_file(path))


def write_rest(
    folder: Path,
    name: str,
    source: Source,
    read: TensorReader,
    provenance: Provenance,
    recipe: Recipe,
    layers: Mapping[str, tuple[LayerRecord, FileRecord]],
    head: PackedMatrix | None,
) -> Manifest:
    """Write embeddings and head, and copy the small files; returns the manifest, to be written
    last.

    ``read`` gives tensors of the source in 16 bits. ``layers`` holds the record of each layer and
    of its file, by the file's name, in order. ``head`` is None where it stays in 16 bits.
    """
    files = {file_name: file for file_name, (_, file) in layers.items()}
    tensors = {"embed.weight": read(EMBEDDING), "norm.weight": read(NORM)}
    if head is None and not source.config.tie_embeddings:
        tensors["head.weight"] = read(HEAD)
    dense = write_dense(folder, tensors, head)
    files[dense.name] = file_record(dense)
    for companion in COMPANIONS:
        if (source.folder / companion).is_file():
            path = Path(shutil.copyfile(source.folder / companion, folder / companion))
            sync(path)
            files[companion] = file_record(path)
    records = tuple(record for record, _ in layers.values())
    return Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        source=provenance,
        recipe=recipe,
        layers=records,
        sizes=sizes(source.config, records, recipe),
        files=files,
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `mc.json`, or put it in the place of another; on the disk when this returns."""
    path = folder / MANIFEST_NAME
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(manifest.to_json(), encoding="utf-8")
    sync(temporary)
    temporary.replace(path)
    sync(folder)


def sizes(config: ModelConfig, layers: Sequence[LayerRecord], recipe: Recipe) -> Sizes:
    """Bytes by part, counted by the layout that the files are written in."""
    hidden, inner, group_size = config.hidden_size, config.intermediate_size, recipe.group_size
    layouts = [
        arena_layout(record.expert_bits, hidden, inner, group_size, recipe.rotated)
        for record in layers
    ]
    return Sizes(
        expert_code_bytes=sum(layout.code_bytes for layout in layouts),
        expert_metadata_bytes=sum(layout.metadata_bytes for layout in layouts),
        dense_bytes=budget.dense_bytes(config, group_size, "cuda", recipe.rest),
        expert_weights=config.num_layers * config.num_experts * config.expert_weights,
        total_weights=config.total_weights,
    )
