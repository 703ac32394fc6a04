"""From an export to hqq back to a compressed checkpoint, a layer at a time.

The files come out byte for byte as they were. Layers may have been quantized anew with hqq in
between: then their widths are read off them, and the manifest says which files are not those that
were exported.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from compress.allocation import WIDEST_WIDTHS
from compress.interchange import hqq_names
from compress.interchange.growing import growing
from compress.interchange.hqq_export import companions
from compress.interchange.hqq_linear import from_hqq
from compress.result import file_record, sizes
from engine.checkpoint import (
    StoredDense,
    StoredLayer,
    attention_shapes,
    open_checkpoint,
    sync,
    write_dense,
    write_layer,
)
from engine.config import ModelConfig
from engine.errors import CheckpointError
from engine.experts import PackedExperts
from engine.layout import Matrix, matrix_shape
from engine.manifest import (
    FULL_BITS,
    MANIFEST_NAME,
    FileRecord,
    LayerRecord,
    Manifest,
    Recipe,
    RestBits,
    read_manifest,
)
from engine.original import tensor_files
from engine.packing import PackedMatrix

_FLOATS = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Imported:
    """A checkpoint that was imported, and those of its files that differ from the exported."""

    folder: Path
    changed: tuple[str, ...]


def import_hqq(folder: Path, out: Path, listener: Callable[[str], None]) -> Imported:
    """Make a compressed checkpoint at ``out`` of what `export_hqq` wrote to ``folder``.

    One layer is in memory at a time, in both forms. ``listener`` hears each step. Raises
    CheckpointError or SourceError for what is damaged or cannot be kept exactly, UsageError when
    ``out`` exists, DiskFullError.
    """
    _check_version(folder)
    exported = read_manifest(folder, hqq_names.MANIFEST_COPY)
    config = ModelConfig.from_folder(folder)
    if len(exported.layers) != config.num_layers:
        raise CheckpointError(
            f"{folder / hqq_names.MANIFEST_COPY} describes {len(exported.layers)} layers, "
            f"config.json {config.num_layers}; export the model again"
        )
    tensors = _Tensors(folder, config)
    needed = sum(path.stat().st_size for path in tensors.files)
    with growing(out, needed) as partial:
        changed = _write(folder, partial, exported, config, tensors, listener)
        listener("checking the result")
        open_checkpoint(partial)
    return Imported(out, changed)


def _write(
    folder: Path,
    partial: Path,
    exported: Manifest,
    config: ModelConfig,
    tensors: "_Tensors",
    listener: Callable[[str], None],
) -> tuple[str, ...]:
    files: dict[str, FileRecord] = {}

    def note(path: Path) -> None:
        files[path.name] = file_record(path)

    layers: list[LayerRecord] = []
    group_sizes: set[int] = set()

    def write_one(index: int, record: LayerRecord) -> None:
        layer = _layer(index, config, exported.recipe, tensors)
        bits = tuple(slots[0].shape.bits for slots in layer.experts.arena.layout.slots)
        layers.append(replace(record, expert_bits=bits))
        group_sizes.add(layer.attention["q"].shape.group_size)
        note(write_layer(partial, index, layer.attention, layer.experts, layer.rest, layer.router))

    for index, record in enumerate(exported.layers):
        listener(f"importing layer {index + 1} of {config.num_layers}")
        write_one(index, record)
    listener("importing what lies outside the layers")
    dense = _dense(config, exported.recipe.rest, tensors)
    if dense.head is not None:
        group_sizes.add(dense.head.shape.group_size)
    if len(group_sizes) > 1:
        raise CheckpointError(
            f"the layers of {folder} have groups of {', '.join(map(str, sorted(group_sizes)))} "
            "weights; quantize all with the same group_size"
        )
    note(write_dense(partial, dense.rest, dense.head))
    for name in companions(folder, exported):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing; export the model again")
        path = Path(shutil.copyfile(folder / name, partial / name))
        sync(path)
        if name in exported.files:
            note(path)
    manifest = replace(
        exported,
        recipe=replace(exported.recipe, group_size=group_sizes.pop()),
        layers=tuple(layers),
        files=files,
    )
    if manifest != exported:
        manifest = replace(manifest, quality=None)  # measured on other codes
    changed = tuple(name for name in files if files[name] != exported.files.get(name))
    _write_manifest(folder, partial, exported, manifest, config, changed)
    return changed


def _write_manifest(
    folder: Path,
    partial: Path,
    exported: Manifest,
    manifest: Manifest,
    config: ModelConfig,
    changed: tuple[str, ...],
) -> None:
    path = partial / MANIFEST_NAME
    if manifest == exported:
        shutil.copyfile(folder / hqq_names.MANIFEST_COPY, path)
    else:
        note = f"imported from hqq: {', '.join(changed)} were changed after the export"
        recipe = replace(manifest.recipe, notes=(*manifest.recipe.notes, note))
        whole = replace(manifest, recipe=recipe, sizes=sizes(config, manifest.layers, recipe))
        path.write_text(whole.to_json(), encoding="utf-8")
    sync(path)


def _layer(index: int, config: ModelConfig, recipe: Recipe, tensors: "_Tensors") -> StoredLayer:
    """One layer, every matrix of it of the shape that config.json says.

    Its matrices share one group size, and those of an expert one width. Its router is packed if
    that of the exported checkpoint was, at the same width; its experts are rotated if those were.
    """
    rest_bits = recipe.rest
    names = hqq_names.attention(index)
    query = tensors.matrix(names["q"])
    group_size = query.shape.group_size
    attention = {}
    for ours, shape in attention_shapes(config, group_size).items():
        matrix = query if ours == "q" else tensors.matrix(names[ours])
        _check(matrix, names[ours], shape.rows, shape.columns, shape.bits, group_size)
        attention[ours] = matrix
    experts = [
        _expert(index, k, config, group_size, recipe.rotated, tensors)
        for k in range(config.num_experts)
    ]
    sides = {"router.weight": (config.num_experts, config.hidden_size)}
    router = None
    others = hqq_names.rest(index)
    if rest_bits.router != FULL_BITS:
        del others["router.weight"]
        name = hqq_names.router(index)
        router = tensors.matrix(name)
        _check(router, name, config.num_experts, config.hidden_size, rest_bits.router, group_size)
    rest = {
        ours: tensors.floating(name, *sides.get(ours, (config.hidden_size,)))
        for ours, name in others.items()
    }
    return StoredLayer(attention, PackedExperts.from_matrices(experts), rest, router)


def _dense(config: ModelConfig, rest_bits: RestBits, tensors: "_Tensors") -> StoredDense:
    """What belongs to no layer; the head is packed if that of the exported checkpoint was."""
    hidden, names = config.hidden_size, hqq_names.DENSE
    found = {
        "embed.weight": tensors.floating(names["embed.weight"], config.vocab_size, hidden),
        "norm.weight": tensors.floating(names["norm.weight"], hidden),
    }
    head = None
    if rest_bits.head != FULL_BITS:
        name = hqq_names.PACKED_HEAD
        head = tensors.matrix(name)
        _check(head, name, config.vocab_size, hidden, rest_bits.head, head.shape.group_size)
    elif not config.tie_embeddings:
        found["head.weight"] = tensors.floating(names["head.weight"], config.vocab_size, hidden)
    return StoredDense(found, head)


def _expert(
    index: int, k: int, config: ModelConfig, group_size: int, rotated: bool, tensors: "_Tensors"
) -> dict[Matrix, PackedMatrix]:
    names = hqq_names.expert(index, k)
    found = {ours: tensors.matrix(name, rotated) for ours, name in names.items()}
    bits = found["gate"].shape.bits
    if bits not in WIDEST_WIDTHS:
        raise CheckpointError(
            f"{names['gate']} has {bits} bits; experts may have "
            f"{', '.join(map(str, WIDEST_WIDTHS))}"
        )
    for ours, matrix in found.items():
        rows, columns = matrix_shape(ours, config.hidden_size, config.intermediate_size)
        _check(matrix, names[ours], rows, columns, bits, group_size)
    return found


def _check(
    matrix: PackedMatrix, name: str, rows: int, columns: int, bits: int, group_size: int
) -> None:
    shape = matrix.shape
    if (shape.rows, shape.columns) != (rows, columns):
        raise CheckpointError(
            f"{name} is {shape.rows} x {shape.columns} instead of {rows} x {columns}, as "
            "config.json says"
        )
    if (shape.bits, shape.group_size) != (bits, group_size):
        raise CheckpointError(
            f"{name} has {shape.bits} bits and groups of {shape.group_size} instead of {bits} bits "
            f"and groups of {group_size}, as those beside it"
        )


class _Tensors:
    """The tensors of an export, each read when it is asked for; an `HQQLinear`'s together."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self._folder = folder
        self._path: Path | None = None
        self._file: Any = None  # one is open at a time
        self._states: dict[str, dict[str, Path]] = {}
        for name, path in tensor_files(folder).items():
            module, _, key = name.rpartition(".")
            self._states.setdefault(module, {})[key] = path
        unknown = sorted(self._states.keys() - _modules(config))
        if unknown:
            raise CheckpointError(f"{folder} holds {unknown[0]}, which no Mixtral of its shape has")

    @property
    def files(self) -> set[Path]:
        """All files of tensors."""
        return {path for keys in self._states.values() for path in keys.values()}

    def matrix(self, name: str, rotated: bool = False) -> PackedMatrix:
        """The matrix that the `HQQLinear` of this name holds."""
        keys = self._states.get(name, {})
        state = {key: self._read(path, f"{name}.{key}") for key, path in keys.items()}
        return from_hqq(state, name, rotated)

    def floating(self, name: str, *shape: int) -> Tensor:
        """A tensor that is not quantized, of this shape, in the type it is stored in."""
        module, _, key = name.rpartition(".")
        keys = self._states.get(module, {})
        if keys.keys() != {key}:
            raise CheckpointError(f"{self._folder} should hold {name}, and no more of {module}")
        tensor = self._read(keys[key], name)
        if tensor.shape != shape or tensor.dtype not in _FLOATS:
            raise CheckpointError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)} instead of {_FLOATS[0]} {shape}; "
                "export the model again"
            )
        return tensor

    def _read(self, path: Path, name: str) -> Tensor:
        try:
            if path != self._path:
                self._path, self._file = path, safe_open(path, framework="pt")
            tensor: Tensor = self._file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from None
        return tensor


def _modules(config: ModelConfig) -> set[str]:
    """The name of everything that has weights."""
    weights = set(hqq_names.DENSE.values())
    for index in range(config.num_layers):
        weights |= set(hqq_names.rest(index).values())
    names = {name.rpartition(".")[0] for name in weights}
    for index in range(config.num_layers):
        names |= set(hqq_names.attention(index).values())
        for k in range(config.num_experts):
            names |= set(hqq_names.expert(index, k).values())
    return names


def _check_version(folder: Path) -> None:
    path = folder / hqq_names.DESCRIPTION
    try:
        version = json.loads(path.read_text(encoding="utf-8"))["format_version"]
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} is no export to hqq: it has no {hqq_names.DESCRIPTION}; `mc-chat export` "
            "writes one"
        ) from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error!r}); export the model again") from None
    if version != hqq_names.FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}; this mc-chat reads {hqq_names.FORMAT_VERSION}"
        )
