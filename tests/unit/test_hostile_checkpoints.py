"""Compressed checkpoints made by a stranger: each trick is one CheckpointError, before any load."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from engine.checkpoint import load_model
from engine.errors import CheckpointError, McChatError, SourceError
from engine.json_file import LARGEST_BYTES
from engine.manifest import (
    MANIFEST_NAME,
    FileRecord,
    check_header,
    open_manifest,
    read_manifest,
    sha256_file,
    verify_hashes,
)
from engine.tokenizer import Tokenizer
from tests.checkpoints_for_tests import write_tiny_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny_checkpoint(tmp_path / "tiny")
    return tmp_path / "tiny"


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what mc.json says."""
    path = folder / MANIFEST_NAME
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def refused(folder: Path, said: str) -> None:
    """By everything that opens a model, in one line."""
    for opening in (open_manifest, load_model):
        with pytest.raises(McChatError, match=said) as caught:
            opening(folder)
        assert isinstance(caught.value, CheckpointError | SourceError)
        assert "\n" not in str(caught.value)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/hostname", "a/b", "..", ".", "", ".hidden", "a\\b", "C:x", "nul\0", "a\nb",
     "\u202egpj.x", "x" * 300],
)  # fmt: skip
def test_names_that_lead_out_of_the_folder_are_no_names(folder: Path, name: str) -> None:
    secret = folder.parent / "secret"
    secret.write_bytes(b"mine")
    record = {"bytes": 4, "sha256": sha256_file(secret)}
    rewrite(folder, lambda raw: raw["files"].update({name: record}))
    refused(folder, "no name for a file")


@pytest.mark.parametrize("name", ["layer-01.safetensors", "dense.safetensors"])
def test_weights_that_have_no_hash_are_refused(folder: Path, name: str) -> None:
    """Else they could be exchanged and nobody would see it."""
    rewrite(folder, lambda raw: raw["files"].pop(name))
    refused(folder, f"does not list {name}")


def test_links_are_followed_only_to_what_the_hashes_say(folder: Path) -> None:
    """The hub's cache is made of links, so they are not refused as such."""
    path = folder / "layer-00.safetensors"
    path.rename(folder.parent / "blob")
    path.symlink_to(folder.parent / "blob")
    verify_hashes(folder, open_manifest(folder))
    other = folder.parent / "other"
    other.write_bytes(bytes(path.stat().st_size))
    path.unlink()
    path.symlink_to(other)
    refused(folder, "not a whole safetensors file")


@pytest.mark.parametrize("kind", ["loop", "device", "folder", "pipe", "dangling"])
def test_what_is_no_file_is_missing(folder: Path, kind: str) -> None:
    path = folder / "layer-00.safetensors"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"loop": path.name, "device": "/dev/zero", "dangling": "nothing"}[kind])
    refused(folder, "layer-00.safetensors is missing")


# --- numbers --------------------------------------------------------------------------------------


def in_layer(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda raw: raw["layers"][1].update(changes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (in_layer(expert_bits=[3, 2]), "describes 2 experts in layer 1, config.json 4"),
        (in_layer(expert_bits=[1] * 5), "describes 5 experts in layer 1"),
        (in_layer(expert_bits=[]), "layer 1 has no experts"),
        (in_layer(expert_bits=[7, 2, 2, 3]), "7 bits is not a packed width"),
        (in_layer(expert_bits=[0, 2, 2, 3]), "0 bits is not a packed width"),
        (in_layer(expert_bits=[-1, 2, 2, 3]), "-1 bits"),
        (in_layer(expert_bits=[True, 2, 2, 3]), "not of type int"),
        (in_layer(expert_bits=[10**400, 2, 2, 3]), "bits is not a packed width"),
        (lambda raw: raw["layers"].pop(), "describes 1 layers, config.json 2"),
        (lambda raw: raw["layers"].clear(), "describes no layer"),
        (lambda raw: raw.update(layers={"a": 1}), "damaged"),
        (lambda raw: raw["recipe"].update(group_size=0), "groups of 0"),
        (lambda raw: raw["recipe"].update(group_size=-32), "groups of -32"),
        (lambda raw: raw["recipe"].update(group_size=48), "groups of 48"),
        (lambda raw: raw["recipe"].update(group_size=2**70), "groups of"),
        (lambda raw: raw["sizes"].update(expert_weights=0), "expert_weights cannot be 0"),
        (lambda raw: raw["sizes"].update(total_weights=-1), "total_weights cannot be -1"),
        (lambda raw: raw["sizes"].update(dense_bytes=10**400), "dense_bytes cannot be 1000"),
        (lambda raw: raw["files"]["dense.safetensors"].update(bytes=2**80), "bytes instead of"),
    ],
)
def test_numbers_that_nothing_can_have_are_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    rewrite(folder, change)
    refused(folder, said)


@pytest.mark.parametrize("key", ["odp_threshold", "odp_quantile", "stream_norm"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_finite_number_is_refused(folder: Path, key: str, value: str) -> None:
    """A threshold that is no number would skip every second expert, without a word."""
    rewrite(folder, in_layer(**{key: "here"}))
    path = folder / MANIFEST_NAME
    path.write_text(path.read_text().replace('"here"', value))
    refused(folder, "is no number|infinite numbers")


# --- JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [MANIFEST_NAME, "config.json"])
@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"a": 1, "a": 2}',
        b" " * (LARGEST_BYTES + 1),
        b'{"a": 1' + b"0" * 5000 + b"}",
        b"\xff\xfe",
    ],
    ids=["deep list", "deep object", "twice", "long", "digits", "bytes"],
)
def test_json_that_takes_readers_down_is_refused(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    refused(folder, f"{name} cannot be read")


def test_a_key_given_twice_is_refused(folder: Path) -> None:
    """One reader checks the first, another believes the last."""
    path = folder / MANIFEST_NAME
    path.write_text(path.read_text().replace("{", '{"files": {},', 1))
    refused(folder, "'files' is given twice")


# --- headers of safetensors -----------------------------------------------------------------------


def with_header(path: Path, header: str, data: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + data)
    return path


@pytest.mark.parametrize(
    "header",
    [
        "[" * 100_000,
        '{"a": {"data_offsets": [0]}}',
        '{"a": {"data_offsets": []}}',
        '{"a": {"data_offsets": {"1": 4}}}',
        '{"a": {"data_offsets": [0, "4"]}, "b": {"data_offsets": [0, 4]}}',
        '{"a": {"data_offsets": [0, NaN]}}',
        '{"a": {"data_offsets": [0, 4]}, "a": {"data_offsets": [0, 4]}}',
        '{"a": 4}',
        "null",
    ],
)
def test_headers_that_are_none_are_one_error(tmp_path: Path, header: str) -> None:
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        check_header(with_header(tmp_path / "x.safetensors", header, bytes(4)))


def test_a_header_longer_than_any_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 10**12))
        file.truncate(10**12 + 8)  # takes no room on the disk
    with pytest.raises(CheckpointError, match="than any header is"):
        check_header(path)


def test_a_file_that_may_not_be_read_is_one_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = open_manifest(folder)

    def denied(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("engine.manifest.sha256_file", denied)
    with pytest.raises(CheckpointError, match=r"cannot be read: .*Permission denied"):
        verify_hashes(folder, manifest)


def relist(folder: Path, name: str) -> None:
    """Let the manifest say what a file is now."""
    path = folder / name
    record = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    rewrite(folder, lambda raw: raw["files"].update({name: record}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dtype", "F32"),
        ("dtype", "I64"),
        ("dtype", "F8_E4M3"),
        ("dtype", "nonsense"),
        ("shape", [2**40, 2**40]),
        ("shape", [-1]),
        ("shape", []),
        ("data_offsets", [0, 2**63]),
        ("data_offsets", [8, 4]),
        ("data_offsets", [0, 4]),
    ],
)
def test_a_header_that_lies_about_a_tensor_is_one_error(
    folder: Path, field: str, value: object
) -> None:
    path = folder / "layer-00.safetensors"
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["experts.codes"][field] = value
    with_header(path, json.dumps(header), content[8 + length :])
    relist(folder, path.name)
    with pytest.raises(CheckpointError, match=r"layer-00\.safetensors"):
        load_model(folder)


@pytest.fixture(scope="module")
def altered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose first layer is written anew for each example."""
    folder = tmp_path_factory.mktemp("altered")
    write_tiny_checkpoint(folder)
    shutil.copy(folder / "layer-00.safetensors", folder / "whole")
    return folder


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 2**16), value=st.integers(0, 255), again=st.integers(0, 2**16))
def test_any_altered_header_is_an_error_or_the_same_model(
    altered: Path, place: int, value: int, again: int
) -> None:
    """Two bytes of a header changed, and the hashes with them: never anything but our own error."""
    content = bytearray((altered / "whole").read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    for offset in (place, again):
        content[offset % (8 + length)] = value
    path = altered / "layer-00.safetensors"
    path.write_bytes(content)
    relist(altered, path.name)
    with suppress(CheckpointError):
        load_model(altered)
        assert load_file(path).keys() == load_file(altered / "whole").keys()


# --- the configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"hidden_size": -64}, "hidden_size is -64"),
        ({"hidden_size": 64.0}, "hidden_size is 64.0"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"hidden_size": 2**80}, "hidden_size is"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_attention_heads": [4]}, "num_attention_heads is"),
        ({"num_key_value_heads": 3}, "4 heads do not divide by 3"),
        ({"head_dim": 15}, "head_dim is 15, not an even number"),
        ({"num_attention_heads": 100, "num_key_value_heads": None}, "head_dim is 0"),
        ({"num_experts_per_tok": 5}, "5 experts of 4"),
        ({"vocab_size": {}}, "vocab_size is"),
        ({"max_position_embeddings": -1}, "max_position_embeddings is -1"),
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"sliding_window": "all"}, "sliding_window is 'all'"),
        ({"rope_theta": 0}, "rope_theta is 0"),
        ({"rope_theta": "big"}, "rope_theta is 'big'"),
        ({"rope_theta": 10**400}, "rope_theta is 1000"),
        ({"rope_parameters": 5}, "rope_parameters is 5"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps is -1.0"),
        ({"rms_norm_eps": None}, "rms_norm_eps is None"),
        ({"eos_token_id": "2"}, "eos_token_id is '2'"),
        ({"eos_token_id": [2, None]}, "eos_token_id is"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'"),
        ({"architectures": 5, "model_type": "mixtral"}, "architectures is 5"),
        ({"num_hidden_layers": 10**9}, "describes 2 layers, config.json 1000000000"),
    ],
)
def test_a_configuration_of_no_model_is_refused(
    folder: Path, changes: dict[str, Any], said: str
) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    refused(folder, said)


def test_the_file_record_of_the_manifest_itself_can_hold_nothing_back(folder: Path) -> None:
    """mc.json cannot list itself: no hash of it is in it."""
    assert MANIFEST_NAME not in read_manifest(folder).files
    rewrite(
        folder,
        lambda raw: raw["files"].update({MANIFEST_NAME: {"bytes": 1, "sha256": ""}}),
    )
    refused(folder, f"{MANIFEST_NAME} has .* bytes instead of 1")
    assert isinstance(read_manifest(folder).files[MANIFEST_NAME], FileRecord)


# --- the tokenizer --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1 / 0 }}",
        "{{ messages[0].content + 1 }}",
        "{% for x in range(10 ** 9) %}a{% endfor %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/hostname' %}",
        "{{ raise_exception('first\nsecond') }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% if %}",
    ],
)
def test_a_chat_template_that_misbehaves_is_one_error(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    tokenizer = Tokenizer.from_folder(folder)
    with pytest.raises(CheckpointError, match="chat template fails") as caught:
        tokenizer.encode_turns([{"role": "user", "content": "hello"}])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "templates",
    [5, [], [5], [{}], [{"name": "default"}], [{"name": "default", "template": 5}], {"a": "b"}],
)
def test_a_chat_template_that_is_none_is_no_template(folder: Path, templates: object) -> None:
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": templates}))
    with pytest.raises(CheckpointError, match="has no chat template"):
        Tokenizer.from_folder(folder).encode_turns([{"role": "user", "content": "hello"}])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"[" * 100_000),
        ("tokenizer_config.json", b"[" * 100_000),
        ("tokenizer_config.json", b"[]"),
        ("chat_template.jinja", b"\xff\xfe"),
    ],
)
def test_a_tokenizer_that_is_none_is_one_error(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        Tokenizer.from_folder(folder)
