"""A compressed checkpoint as hqq's packed layers, a layer at a time."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from compress.companions import COMPANIONS
from compress.interchange import hqq_names
from compress.interchange.growing import growing
from compress.interchange.hqq_linear import HQQ_VERSION, state_bytes, to_hqq
from engine.checkpoint import (
    PROJECTIONS,
    StoredLayer,
    attention_shapes,
    open_checkpoint,
    read_dense,
    read_layer,
    save_tensors,
    sync,
)
from engine.config import ModelConfig
from engine.integrity import ensure_verified
from engine.layout import arena_layout
from engine.manifest import DENSE_FILE, MANIFEST_NAME, Manifest, layer_file
from engine.packing import PackedMatrix

_SMALL_BYTES = 8192
"""What hqq's scalars, headers and indices take for each matrix, roundly from above."""

_NOTE = (
    "Every entry of `linears` (its width in bits) is the state of an HQQLinear: load the tensors "
    "under its name with HQQLinear(None, None, compute_dtype=torch.float32).load_state_dict. In "
    "float32 its weights are exactly those of the exported checkpoint."
)
_ROTATED_NOTE = (
    " The experts are rotated: before w1, w3 and w2, multiply each run of group_size inputs by the "
    "Hadamard matrix of that order divided by its square root (scipy.linalg.hadamard)."
)


@dataclass(frozen=True)
class Exported:
    """An export: where it lies, its files and their bytes."""

    folder: Path
    files: int
    bytes: int


def export_hqq(folder: Path, out: Path, listener: Callable[[str], None]) -> Exported:
    """Write the compressed checkpoint in ``folder`` to ``out`` for hqq.

    One layer is in memory at a time, in both forms. ``listener`` hears each step. Raises
    CheckpointError, UsageError when ``out`` exists, DiskFullError.
    """
    manifest, config = open_checkpoint(folder)
    hqq_names.check_architecture(config)
    needed = _needed_bytes(folder, manifest, config)
    with growing(out, needed) as partial:
        ensure_verified(folder, manifest, lambda name: listener(f"checking {name}"))
        _write(folder, partial, manifest, config, listener)
    paths = list(out.iterdir())
    return Exported(out, len(paths), sum(path.stat().st_size for path in paths))


def _write(
    folder: Path,
    partial: Path,
    manifest: Manifest,
    config: ModelConfig,
    listener: Callable[[str], None],
) -> None:
    count = config.num_layers + 1
    weight_map: dict[str, str] = {}
    linears: dict[str, int] = {}

    def save(number: int, tensors: Mapping[str, Tensor]) -> None:
        path = save_tensors(partial / hqq_names.file_name(number, count), tensors)
        weight_map.update(dict.fromkeys(sorted(tensors), path.name))

    def save_layer(index: int) -> None:
        layer = read_layer(folder, manifest, config, index)
        matrices = _matrices(index, layer)
        linears.update({name: matrix.shape.bits for name, matrix in matrices.items()})
        names = hqq_names.rest(index)
        rest = {names[ours]: tensor for ours, tensor in layer.rest.items()}
        save(index + 1, _states(matrices) | rest)

    for index in range(config.num_layers):
        listener(f"exporting layer {index + 1} of {config.num_layers}")
        save_layer(index)
    listener("exporting what lies outside the layers")
    dense = read_dense(folder, manifest, config)
    head = {} if dense.head is None else {hqq_names.PACKED_HEAD: dense.head}
    linears.update({name: matrix.shape.bits for name, matrix in head.items()})
    rest = {hqq_names.DENSE[ours]: tensor for ours, tensor in dense.rest.items()}
    save(count, _states(head) | rest)
    for name in companions(folder, manifest):
        sync(Path(shutil.copyfile(folder / name, partial / name)))
    sync(Path(shutil.copyfile(folder / MANIFEST_NAME, partial / hqq_names.MANIFEST_COPY)))
    _write_json(partial / hqq_names.INDEX, {"metadata": {}, "weight_map": weight_map})
    description = {
        "format_version": hqq_names.FORMAT_VERSION,
        "hqq": HQQ_VERSION,
        "note": _NOTE + _ROTATED_NOTE if manifest.recipe.rotated else _NOTE,
        "name": manifest.name,
        "group_size": manifest.recipe.group_size,
        "axis": 1,
        "rotated_experts": manifest.recipe.rotated,
        "linears": linears,
    }
    _write_json(partial / hqq_names.DESCRIPTION, description)


def companions(folder: Path, manifest: Manifest) -> list[str]:
    """The small files of a checkpoint: all that the manifest lists beside the weights, and those
    of the usual ones that it does not list but are there."""
    weights = {layer_file(index) for index in range(len(manifest.layers))} | {DENSE_FILE}
    listed = [name for name in manifest.files if name not in weights]
    there = [name for name in COMPANIONS if (folder / name).is_file()]
    return [*listed, *(name for name in there if name not in listed)]


def _matrices(index: int, layer: StoredLayer) -> dict[str, PackedMatrix]:
    """All packed matrices of a layer by their original names."""
    found = {name: layer.attention[ours] for ours, name in hqq_names.attention(index).items()}
    for k in range(layer.experts.arena.num_experts):
        for matrix, name in hqq_names.expert(index, k).items():
            found[name] = layer.experts.matrix(k, matrix)
    if layer.router is not None:
        found[hqq_names.router(index)] = layer.router
    return found


def _states(matrices: Mapping[str, PackedMatrix]) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": tensor
        for name, matrix in matrices.items()
        for key, tensor in to_hqq(matrix).items()
    }


def _needed_bytes(folder: Path, manifest: Manifest, config: ModelConfig) -> int:
    """Bytes of the export, roundly from above. Raises UsageError for what hqq cannot hold."""
    group_size = manifest.recipe.group_size
    attention = sum(state_bytes(shape) for shape in attention_shapes(config, group_size).values())
    total = sum(record.bytes for name, record in manifest.files.items() if name == DENSE_FILE)
    if head := manifest.recipe.rest.head_shape(config, group_size):
        total += state_bytes(head) + _SMALL_BYTES
    router = manifest.recipe.rest.router_shape(config, group_size)
    router_bytes = state_bytes(router) + _SMALL_BYTES if router else 0
    for record in manifest.layers:
        layout = arena_layout(
            record.expert_bits,
            config.hidden_size,
            config.intermediate_size,
            group_size,
            manifest.recipe.rotated,
        )
        shapes = [slot.shape for slots in layout.slots for slot in slots]
        small = _SMALL_BYTES * (len(PROJECTIONS) + len(shapes))
        router_and_norms = 4 * (config.num_experts + 2) * config.hidden_size
        total += attention + sum(map(state_bytes, shapes)) + router_and_norms + small
        total += router_bytes
    small_files = [*companions(folder, manifest), MANIFEST_NAME]
    return total + sum((folder / name).stat().st_size for name in small_files)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sync(path)
