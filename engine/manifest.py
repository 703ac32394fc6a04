"""`mc.json`: what a compressed checkpoint is, how it was made, and what its files must be.

Reading it needs no torch, so that lists and tables come up at once. `open_manifest` also checks
the size and header of every file; hashes are checked by `verify_hashes`. A checkpoint may come from
a stranger: nothing in it may lead out of its folder, take the program down, or reach code that
trusts it before it is checked here.
"""

import dataclasses
import hashlib
import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from math import hypot, isfinite
from pathlib import Path
from typing import Any

from engine.config import ModelConfig
from engine.errors import CheckpointError, ProtocolError, UsageError
from engine.json_file import LARGEST_BYTES, parse_json, read_json
from engine.layout import PackedShape, planes
from engine.protocol import from_dict
from engine.quality import Quality, check_quality

FORMAT_VERSION = 1
MANIFEST_NAME = "mc.json"
DENSE_FILE = "dense.safetensors"
OTP_FILE = "otp.safetensors"
DENSE_BITS = 4
FULL_BITS = 16
"""What router and head keep unless they are to be rounded, too: they stay as they are."""
ROUTER_WIDTHS = (4, FULL_BITS)
HEAD_WIDTHS = (4, 8, FULL_BITS)

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_MOST = 2**53
"""More of anything than there can be; every number below is exact as a float."""


def layer_file(layer: int) -> str:
    """Name of the file that holds one layer."""
    return f"layer-{layer:02d}.safetensors"


@dataclass(frozen=True)
class Source:
    """Where the original weights came from."""

    repository: str
    revision: str
    sha256: str


@dataclass(frozen=True)
class RestBits:
    """Widths of what is neither expert nor attention and may be packed all the same: each layer's
    router, and the head."""

    router: int = FULL_BITS
    head: int = FULL_BITS

    def router_shape(self, config: ModelConfig, group_size: int) -> PackedShape | None:
        """The packed shape of a router; None where it stays as it is. Raises UsageError."""
        if self.router == FULL_BITS:
            return None
        return PackedShape(config.num_experts, config.hidden_size, self.router, group_size)

    def head_shape(self, config: ModelConfig, group_size: int) -> PackedShape | None:
        """Likewise, of the head."""
        if self.head == FULL_BITS:
            return None
        return PackedShape(config.vocab_size, config.hidden_size, self.head, group_size)


@dataclass(frozen=True)
class Recipe:
    """Everything that decided the codes. ``bits`` is the requested mean width of the experts,
    ``samples`` windows of ``window`` tokens calibrated it. ``notes`` says what was rounded or
    dropped (a budget that is not a multiple of 1/experts, a constraint that cannot hold);
    ``error`` whether eps was measured at the block's or the model's output; ``rotated`` whether the
    experts' matrices are (see `engine.layout`)."""

    bits: float
    quantizer: str
    allocator: str
    group_size: int
    calibration: str
    samples: int
    window: int
    seed: int
    alpha: float
    beta: float
    gamma: float
    notes: tuple[str, ...] = ()
    error: str = "block"
    router_bits: int = FULL_BITS
    head_bits: int = FULL_BITS
    rotated: bool = False

    @property
    def rest(self) -> RestBits:
        """The widths of router and head."""
        return RestBits(self.router_bits, self.head_bits)

    def to_dict(self) -> dict[str, Any]:
        """As in `mc.json`: who knows nothing of packed routers and heads, or of rotated experts,
        can read what has none."""
        packed = dataclasses.asdict(self)
        for name in ("router_bits", "head_bits"):
            if packed[name] == FULL_BITS:
                del packed[name]
        if not self.rotated:
            del packed["rotated"]
        return packed


@dataclass(frozen=True)
class LayerRecord:
    """What is known of one layer. Tuples are per expert.

    ``odp_threshold``: median of w1/w0; ``odp_quantile``: the level of ||t||_1 * A_jj above which
    a token is protected while decoding; ``frequency`` and ``routing_weight`` sum to 1;
    ``errors[expert][j]`` is eps at ``widths[j]`` bits. ``trace_errors``, likewise, are the sums
    over an expert's matrices of mean(diag H) * ||W - Q||_F^2; ``stream_norm`` is what the errors of
    a layer are put in relation to when layers are compared. ``unforced_bits`` are the widths that
    the program would have chosen without its two constraints, empty where it has none;
    ``odp_ranks`` the thresholds of w_r/w0 for the ranks r from 2 on, of models that choose more
    than two experts. Checkpoints of earlier versions have none of these.
    """

    expert_bits: tuple[int, ...]
    odp_threshold: float
    odp_quantile: float
    frequency: tuple[float, ...]
    routing_weight: tuple[float, ...]
    errors: tuple[tuple[float, ...], ...]
    trace_errors: tuple[tuple[float, ...], ...] = ()
    stream_norm: float = 0.0
    widths: tuple[int, ...] = (1, 2, 3)
    unforced_bits: tuple[int, ...] = ()
    odp_ranks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Sizes:
    """Bytes by part, and the weights they stand for."""

    expert_code_bytes: int
    expert_metadata_bytes: int
    dense_bytes: int
    expert_weights: int
    total_weights: int

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors of the checkpoint."""
        return self.expert_code_bytes + self.expert_metadata_bytes + self.dense_bytes

    @property
    def bits_per_expert_weight(self) -> float:
        """Codes, scales and zero points of the experts, in bits per expert weight."""
        expert_bytes = self.expert_code_bytes + self.expert_metadata_bytes
        return 8 * expert_bytes / self.expert_weights

    @property
    def bits_per_weight(self) -> float:
        """All bytes of the checkpoint's weights, in bits per weight."""
        return 8 * self.total_bytes / self.total_weights


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and hash of one file of the checkpoint."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class OtpRecord:
    """What OTP's routers were learned on, and for what.

    A slot's ``price`` is a share of the squared norm of the residual stream. At this one a share
    ``skipped`` of the slots went, on ``samples`` windows of ``window`` tokens of ``calibration``.
    """

    price: float
    skipped: float
    calibration: str
    samples: int
    window: int


@dataclass(frozen=True)
class Manifest:
    """The whole of `mc.json`."""

    format_version: int
    name: str
    source: Source
    recipe: Recipe
    layers: tuple[LayerRecord, ...]
    sizes: Sizes
    files: dict[str, FileRecord]
    quality: Quality | None = None
    """None where nothing was compared with the original."""
    otp: OtpRecord | None = None
    """None where OTP has learned nothing."""

    @property
    def nominal_bits(self) -> float:
        """Mean code bits over all experts."""
        widths = [bits for layer in self.layers for bits in layer.expert_bits]
        return sum(widths) / len(widths)

    def expert_errors(self) -> list[float | None]:
        """Of each layer what rounding its experts changes, as a share of the residual stream behind
        it: their eps at the widths they have, added up as if they were independent. None where
        that is not known."""
        return [_expert_error(layer, self.recipe) for layer in self.layers]

    def to_json(self) -> str:
        """The text of `mc.json`; the same manifest gives the same bytes."""
        content = {**dataclasses.asdict(self), "recipe": self.recipe.to_dict()}
        for layer in content["layers"]:
            if not layer["odp_ranks"]:
                del layer["odp_ranks"]
        for name in ("quality", "otp"):
            if content[name] is None:
                del content[name]
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _expert_error(layer: LayerRecord, recipe: Recipe) -> float | None:
    known = layer.errors and set(layer.expert_bits) <= set(layer.widths)
    if recipe.error != "block" or not layer.stream_norm or not known:
        return None
    pairs = zip(layer.errors, layer.expert_bits, strict=True)
    errors = [row[layer.widths.index(bits)] for row, bits in pairs]
    return hypot(*errors) / layer.stream_norm


def is_compressed(folder: Path) -> bool:
    """Whether the folder claims to be a compressed checkpoint."""
    return (folder / MANIFEST_NAME).is_file()


def read_manifest(folder: Path, name: str = MANIFEST_NAME) -> Manifest:
    """Parse ``folder/mc.json``, or a copy of it called ``name``. Raises CheckpointError."""
    path = folder / name
    try:
        raw = read_json(path)
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is no compressed checkpoint: it has no {name}") from None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; compress or pull again") from None
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}; this mc-chat reads version {FORMAT_VERSION}"
        )
    try:
        return _parse(raw)
    except (TypeError, ValueError, KeyError, AttributeError, ProtocolError) as error:
        raise CheckpointError(f"{path} is damaged ({error!r}); compress or pull again") from None


def _parse(raw: dict[str, Any]) -> Manifest:
    manifest = Manifest(
        format_version=raw["format_version"],
        name=str(raw["name"]),
        source=from_dict(Source, raw["source"]),
        recipe=from_dict(Recipe, raw["recipe"]),
        layers=tuple(from_dict(LayerRecord, layer) for layer in raw["layers"]),
        sizes=from_dict(Sizes, raw["sizes"]),
        files={name: from_dict(FileRecord, record) for name, record in raw["files"].items()},
        quality=from_dict(Quality, raw["quality"]) if "quality" in raw else None,
        otp=from_dict(OtpRecord, raw["otp"]) if "otp" in raw else None,
    )
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    """Raise ValueError for a manifest that no compression writes."""
    for name in manifest.files:
        if not _FILE_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name for a file of a checkpoint")
    rest = manifest.recipe.rest
    if rest.router not in ROUTER_WIDTHS or rest.head not in HEAD_WIDTHS:
        raise ValueError(f"no router has {rest.router} bits and no head {rest.head}")
    if not manifest.layers:
        raise ValueError("it describes no layer")
    for index, layer in enumerate(manifest.layers):
        _check_layer(index, layer)
    if manifest.quality is not None:
        check_quality(manifest.quality)
    if manifest.otp is not None and not 0 <= manifest.otp.price <= _MOST:
        raise ValueError(f"otp.price cannot be {manifest.otp.price}")
    counts = dataclasses.asdict(manifest.sizes)
    for name, count in counts.items():
        if not (1 if name.endswith("weights") else 0) <= count <= _MOST:
            raise ValueError(f"sizes.{name} cannot be {count}")


def _check_layer(index: int, layer: LayerRecord) -> None:
    if not layer.expert_bits:
        raise ValueError(f"layer {index} has no experts")
    try:
        for bits in set(layer.expert_bits):
            planes(bits)
    except UsageError as error:
        raise ValueError(f"layer {index}: {error}") from None
    numbers = chain(
        (layer.odp_threshold, layer.odp_quantile, layer.stream_norm, *layer.odp_ranks),
        layer.frequency,
        layer.routing_weight,
        *layer.errors,
        *layer.trace_errors,
    )
    if not all(map(isfinite, numbers)):
        raise ValueError(f"layer {index} holds infinite numbers")


def open_manifest(folder: Path) -> Manifest:
    """Parse the manifest and check that every file is there, whole, and a safetensors file, and
    that the layers have the shape that config.json says.

    Cheap: sizes and headers only. Raises CheckpointError naming the file and what to do, and
    SourceError for a config.json that is missing or damaged.
    """
    manifest = read_manifest(folder)
    extra = () if manifest.otp is None else (OTP_FILE,)
    for name in (DENSE_FILE, *map(layer_file, range(len(manifest.layers))), *extra):
        if name not in manifest.files:
            raise CheckpointError(
                f"{folder / MANIFEST_NAME} does not list {name}; compress or pull the model again"
            )
    for name, record in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; compress or pull the model again")
        size = path.stat().st_size
        if size != record.bytes:
            raise CheckpointError(
                f"{path} has {size} bytes instead of {record.bytes}: it is truncated or altered; "
                "compress or pull the model again"
            )
        if path.suffix == ".safetensors":
            check_header(path)
    _check_shape(folder / MANIFEST_NAME, manifest, ModelConfig.from_folder(folder))
    return manifest


def _check_shape(path: Path, manifest: Manifest, config: ModelConfig) -> None:
    """See that the layers are those of the configuration: kernels trust the counts of experts."""
    if len(manifest.layers) != config.num_layers:
        raise CheckpointError(
            f"{path} describes {len(manifest.layers)} layers, config.json {config.num_layers}; "
            "compress or pull the model again"
        )
    for index, layer in enumerate(manifest.layers):
        if len(layer.expert_bits) != config.num_experts:
            raise CheckpointError(
                f"{path} describes {len(layer.expert_bits)} experts in layer {index}, config.json "
                f"{config.num_experts}; compress or pull the model again"
            )
    ranks = {len(layer.odp_ranks) for layer in manifest.layers}
    if ranks not in ({0}, {config.top_k - 2}):
        raise CheckpointError(
            f"{path} has ODP thresholds for another number of experts a token than config.json's "
            f"{config.top_k}; compress or pull the model again"
        )
    if config.tie_embeddings and manifest.recipe.head_bits != FULL_BITS:
        raise CheckpointError(
            f"{path} describes a head of {manifest.recipe.head_bits} bits, which config.json ties "
            "to the embeddings; compress or pull the model again"
        )
    queries = config.num_heads * config.head_dim
    shared = config.traits.shared_size
    try:
        for columns in (config.hidden_size, config.intermediate_size, queries, shared):
            PackedShape(1, columns, DENSE_BITS, manifest.recipe.group_size, manifest.recipe.rotated)
    except UsageError:
        raise CheckpointError(
            f"{path} describes groups of {manifest.recipe.group_size} weights, into which the "
            f"{columns} inputs of config.json do not divide; compress or pull the model again"
        ) from None


def check_header(path: Path) -> None:
    """Check that a safetensors file's header is whole and covers exactly the file's bytes.

    Raises CheckpointError.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size - 8, LARGEST_BYTES):
                raise ValueError("the header is longer than the file, or than any header is")
            header = parse_json(file.read(length))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        if 8 + length + max(ends, default=0) != size:
            raise ValueError("the tensors do not fill the file")
    except (ValueError, LookupError, TypeError, AttributeError, OSError, struct.error) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from None


def sha256_file(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_hashes(
    folder: Path, manifest: Manifest, listener: Callable[[str], None] | None = None
) -> None:
    """Read every file and compare its hash; ``listener`` hears each file's name first.

    Raises CheckpointError for the first file that differs.
    """
    for name, record in manifest.files.items():
        if listener:
            listener(name)
        try:
            found = sha256_file(folder / name)
        except OSError as error:
            raise CheckpointError(
                f"{folder / name} cannot be read: {error}; compress or pull the model again"
            ) from None
        if found != record.sha256:
            raise CheckpointError(
                f"{folder / name} was altered: its SHA-256 is not the one in {MANIFEST_NAME}; "
                "compress or pull the model again"
            )
