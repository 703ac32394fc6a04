"""`mc.json`: written, read back, and every kind of damage found."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import manifest
from engine.errors import CheckpointError
from tests.checkpoints_for_tests import EXPERT_BITS, write_tiny_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny_checkpoint(tmp_path / "tiny")
    return tmp_path / "tiny"


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / manifest.MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_manifest_reads_back_equal_and_writes_the_same_bytes(tmp_path: Path) -> None:
    written = write_tiny_checkpoint(tmp_path)
    found = manifest.open_manifest(tmp_path)
    assert found == written
    assert found.to_json() == (tmp_path / manifest.MANIFEST_NAME).read_text()
    manifest.verify_hashes(tmp_path, found)


def test_layers_of_earlier_versions_have_fewer_facts(folder: Path) -> None:
    written = manifest.read_manifest(folder).layers
    raw = json.loads((folder / manifest.MANIFEST_NAME).read_text())["layers"]
    for layer in raw:
        for name in ("trace_errors", "stream_norm", "widths"):
            del layer[name]
    rewrite(folder, layers=raw)
    assert manifest.read_manifest(folder).layers == written


def test_nominal_bits_and_sizes(folder: Path) -> None:
    found = manifest.read_manifest(folder)
    widths = [bits for layer in EXPERT_BITS for bits in layer]
    assert found.nominal_bits == sum(widths) / len(widths)
    assert found.sizes.bits_per_expert_weight == 8 * 1100 / found.sizes.expert_weights
    assert found.sizes.bits_per_weight == 8 * 1600 / found.sizes.total_weights


def test_hashing_tells_each_file(folder: Path) -> None:
    heard: list[str] = []
    found = manifest.open_manifest(folder)
    manifest.verify_hashes(folder, found, heard.append)
    assert heard == list(found.files)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format_version": 1}', "\x00\xff"])
def test_a_damaged_manifest_is_one_error(folder: Path, text: str) -> None:
    (folder / manifest.MANIFEST_NAME).write_text(text)
    with pytest.raises(CheckpointError, match=r"mc\.json"):
        manifest.read_manifest(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": "none"},
        {"layers": [{"expert_bits": [2, 2]}]},
        {"sizes": None},
        {"recipe": {"bits": "many"}},
        {"files": []},
        {"files": {"dense.safetensors": {"bytes": "1", "sha256": ""}}},
        {"source": {"repository": 1, "revision": "", "sha256": ""}},
    ],
)
def test_values_of_the_wrong_kind_are_damage(folder: Path, changes: dict[str, Any]) -> None:
    rewrite(folder, **changes)
    with pytest.raises(CheckpointError, match="damaged"):
        manifest.read_manifest(folder)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_named(folder: Path, version: object) -> None:
    rewrite(folder, format_version=version)
    with pytest.raises(CheckpointError, match=f"version {version}"):
        manifest.open_manifest(folder)


def test_a_folder_without_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    assert not manifest.is_compressed(tmp_path)
    with pytest.raises(CheckpointError, match="no compressed checkpoint"):
        manifest.open_manifest(tmp_path)


@pytest.mark.parametrize("name", ["layer-00.safetensors", "dense.safetensors"])
def test_missing_truncated_and_grown_files_are_named(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    for content, said in (
        (None, "is missing"),
        (b"", "0 bytes"),
        (whole[:-1], "truncated or altered"),
        (whole + b"\0", "truncated or altered"),
    ):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name}.*{said}"):
            manifest.open_manifest(folder)


@settings(max_examples=30, deadline=None)
@given(place=st.integers(0, 36_000), change=st.integers(1, 255))
def test_any_altered_byte_is_found(
    tmp_path_factory: pytest.TempPathFactory, place: int, change: int
) -> None:
    folder = tmp_path_factory.mktemp("altered")
    found = write_tiny_checkpoint(folder)
    path = folder / "layer-01.safetensors"
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= change
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"layer-01\.safetensors was altered"):
        manifest.verify_hashes(folder, found)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08",
        b"\xff" * 8,
        (2).to_bytes(8, "little") + b"{}" + b"extra",
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"\xff\xfe{}",
        (10).to_bytes(8, "little") + b'{"a": [1]}',
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        manifest.check_header(path)
