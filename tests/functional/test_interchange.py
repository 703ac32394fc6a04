"""Exports to hqq and their way back, as whole commands and byte for byte."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from app import cli, paths
from compress.interchange import hqq_names
from compress.interchange.hqq_export import export_hqq
from compress.interchange.hqq_import import import_hqq
from engine.checkpoint import load_model
from engine.errors import CheckpointError, DiskFullError, McChatError, UsageError
from engine.experts import PackedExperts
from engine.hadamard import rotate
from engine.linear import PackedLinear
from engine.manifest import RestBits, open_manifest, read_manifest, verify_hashes
from engine.packing import dequantize
from tests.checkpoints_for_tests import GROUP_SIZE, write_tiny_checkpoint
from tests.compressions_for_tests import contents
from tests.unit.models_for_tests import save_tiny_mixtral, write_compressed


def silent(step: str) -> None:
    """Nobody listens."""


@pytest.fixture
def exported(tiny: Path, tmp_path: Path) -> Path:
    return export_hqq(tiny, tmp_path / "tiny-hqq", silent).folder


def weights(folder: Path) -> dict[str, Path]:
    """The file of each tensor of an export."""
    index = json.loads((folder / hqq_names.INDEX).read_text())
    return {name: folder / file for name, file in index["weight_map"].items()}


def change(folder: Path, name: str, tensors: dict[str, Tensor | None]) -> None:
    """Exchange tensors of an export, which all lie in the file of the tensor ``name``."""
    path = weights(folder)[name]
    kept = load_file(path) | tensors
    save_file({key: tensor for key, tensor in kept.items() if tensor is not None}, path)
    index = json.loads((folder / hqq_names.INDEX).read_text())
    for key, tensor in tensors.items():
        index["weight_map"][key] = path.name
        if tensor is None:
            del index["weight_map"][key]
    (folder / hqq_names.INDEX).write_text(json.dumps(index))


def state_of(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one HQQLinear of an export."""
    file = load_file(weights(folder)[f"{name}.W_q"])
    return {key[len(name) + 1 :]: file[key] for key in file if key.startswith(f"{name}.")}


# --- out and in again -----------------------------------------------------------------------------


def test_hqq_computes_with_the_weights_that_we_compute_with(tiny: Path, exported: Path) -> None:
    linears = json.loads((exported / hqq_names.DESCRIPTION).read_text())["linears"]
    model = load_model(tiny)
    checked = 0
    for index, layer in enumerate(model.layers):
        assert isinstance(layer.experts, PackedExperts)
        matrices = {name: layer.experts.matrix(k, matrix) for k in range(4)
                    for matrix, name in hqq_names.expert(index, k).items()}  # fmt: skip
        for ours, name in hqq_names.attention(index).items():
            matrices[name] = getattr(layer.attention, ours).matrix
        for name, matrix in matrices.items():
            linear = HQQLinear(None, None, compute_dtype=torch.float32, device="cpu")
            linear.load_state_dict(state_of(exported, name))
            assert torch.equal(linear.dequantize(), dequantize(matrix)), name
            assert linears[name] == matrix.shape.bits
            checked += 1
    assert checked == len(linears) == 2 * (4 + 4 * 3)


def test_rotated_experts_are_exported_for_turned_inputs(tmp_path: Path) -> None:
    save_tiny_mixtral(tmp_path / "original")
    folder = tmp_path / "rotated"
    write_compressed(tmp_path / "original", folder, (1, 2, 3, 4), rotated=True)
    exported = export_hqq(folder, tmp_path / "out", silent).folder
    description = json.loads((exported / hqq_names.DESCRIPTION).read_text())
    assert description["rotated_experts"]
    assert "Hadamard" in description["note"]
    experts = load_model(folder).layers[1].experts
    assert isinstance(experts, PackedExperts)
    for k in range(4):
        for matrix, name in hqq_names.expert(1, k).items():
            linear = HQQLinear(None, None, compute_dtype=torch.float32, device="cpu")
            linear.load_state_dict(state_of(exported, name))
            packed = experts.matrix(k, matrix)
            x = torch.randn(3, packed.shape.columns)
            found = linear(rotate(x, packed.shape.group_size))
            torch.testing.assert_close(found, x @ dequantize(packed).T, rtol=1e-4, atol=1e-4)
    back = import_hqq(exported, tmp_path / "back", silent)
    assert not back.changed
    assert contents(back.folder) == contents(folder)


def test_all_that_is_not_quantized_is_exported_under_its_original_name(
    tiny: Path, exported: Path
) -> None:
    ours = load_file(tiny / "layer-01.safetensors") | load_file(tiny / "dense.safetensors")
    found = {}
    for path in sorted(exported.glob("*.safetensors")):
        found |= load_file(path)
    assert found.keys() == weights(exported).keys()
    for name, original in (hqq_names.rest(1) | hqq_names.DENSE).items():
        assert torch.equal(found[original], ours[name])
        assert found[original].dtype == ours[name].dtype


def test_the_way_there_and_back_changes_no_byte(tiny: Path, exported: Path, tmp_path: Path) -> None:
    done = import_hqq(exported, tmp_path / "back", silent)
    assert done.changed == ()
    assert contents(tmp_path / "back") == contents(tiny)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    bits=st.lists(st.sampled_from([1, 2, 3, 4]), min_size=3, max_size=3),
    group_size=st.sampled_from([64, 128]),
    groups=st.integers(1, 3),
    inner=st.sampled_from([1, 3, 5]),
    tied=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_random_models_come_back_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory,
    bits: list[int],
    group_size: int,
    groups: int,
    inner: int,
    tied: bool,
    seed: int,
) -> None:
    """Also those whose rows are no multiple of the 32 of a tile, nor the groups of 10."""
    folder = tmp_path_factory.mktemp("random")
    save_tiny_mixtral(
        folder / "original",
        seed,
        vocab_size=11,
        hidden_size=group_size * groups,
        intermediate_size=group_size * inner,
        num_hidden_layers=1,
        num_attention_heads=groups,
        num_key_value_heads=1,
        head_dim=group_size,
        num_local_experts=3,
        tie_word_embeddings=tied,
    )
    write_compressed(folder / "original", folder / "small", tuple(bits), group_size)
    export_hqq(folder / "small", folder / "out", silent)
    assert import_hqq(folder / "out", folder / "back", silent).changed == ()
    assert contents(folder / "back") == contents(folder / "small")


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A model whose routers and head are packed, too."""
    folder = tmp_path / "packed"
    write_tiny_checkpoint(folder, rest_bits=RestBits(4, 8))
    return folder


def test_packed_routers_and_heads_go_there_and_back(packed: Path, tmp_path: Path) -> None:
    done = export_hqq(packed, tmp_path / "packed-hqq", silent)
    model = load_model(packed)
    for name, linear in {
        hqq_names.router(1): model.layers[1].router,
        hqq_names.PACKED_HEAD: model.head,
    }.items():
        assert isinstance(linear, PackedLinear)
        theirs = HQQLinear(None, None, compute_dtype=torch.float32, device="cpu")
        theirs.load_state_dict(state_of(done.folder, name))
        assert torch.equal(theirs.dequantize(), dequantize(linear.matrix)), name
    linears = json.loads((done.folder / hqq_names.DESCRIPTION).read_text())["linears"]
    assert (linears[hqq_names.router(0)], linears[hqq_names.PACKED_HEAD]) == (4, 8)
    assert import_hqq(done.folder, tmp_path / "back", silent).changed == ()
    assert contents(tmp_path / "back") == contents(packed)


@pytest.mark.parametrize("name", [hqq_names.router(1), hqq_names.PACKED_HEAD])
def test_a_router_or_head_of_another_width_is_refused(
    packed: Path, tmp_path: Path, name: str
) -> None:
    folder = export_hqq(packed, tmp_path / "packed-hqq", silent).folder
    _, tensors = quantized_by_hqq(folder, name, 2)
    change(folder, f"{name}.W_q", tensors)
    with pytest.raises(CheckpointError, match=rf"{name} has 2 bits .* instead of [48] bits"):
        import_hqq(folder, tmp_path / "back", silent)
    change(folder, f"{name}.W_q", dict.fromkeys(tensors) | {f"{name}.weight": torch.zeros(4, 64)})
    with pytest.raises(CheckpointError, match=f"{name} is no whole HQQLinear"):
        import_hqq(folder, tmp_path / "back", silent)
    assert not any(tmp_path.glob("back*"))


def test_a_second_export_is_the_same_bytes(tiny: Path, exported: Path, tmp_path: Path) -> None:
    again = export_hqq(tiny, tmp_path / "again", silent)
    assert contents(again.folder) == contents(exported)


# --- layers that hqq made -------------------------------------------------------------------------


def quantized_by_hqq(
    folder: Path, name: str, bits: int, **changes: Any
) -> tuple[HQQLinear, dict[str, Tensor | None]]:
    """What takes the place of a layer of an export when hqq quantizes it anew."""
    before = state_of(folder, name)
    rows, columns = before["shape"].tolist()
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows + bits))
    config = BaseQuantizeConfig(nbits=bits, **{"group_size": GROUP_SIZE, "axis": 1, **changes})
    linear = HQQLinear.from_weights(weight, None, config, device="cpu")
    state = linear.state_dict()
    assert state.keys() == before.keys()
    return linear, {f"{name}.{key}": tensor.detach().clone() for key, tensor in state.items()}


def test_layers_that_hqq_quantized_anew_come_in_at_their_new_widths(
    tiny: Path, exported: Path, tmp_path: Path
) -> None:
    names = hqq_names.expert(1, 0)  # of 1 bit until now
    linears = {}
    for matrix, name in names.items():
        linears[matrix], tensors = quantized_by_hqq(exported, name, 2)
        change(exported, f"{name}.W_q", tensors)
    query = hqq_names.attention(0)["q"]
    linears["q"], tensors = quantized_by_hqq(exported, query, 4)
    change(exported, f"{query}.W_q", tensors)

    done = import_hqq(exported, tmp_path / "back", silent)

    assert done.changed == ("layer-00.safetensors", "layer-01.safetensors")
    manifest = open_manifest(done.folder)
    verify_hashes(done.folder, manifest)
    before = read_manifest(tiny)
    assert manifest.layers[1].expert_bits == (2, *before.layers[1].expert_bits[1:])
    assert manifest.layers[0] == before.layers[0]
    assert "layer-00.safetensors, layer-01.safetensors were changed" in manifest.recipe.notes[-1]
    assert manifest.sizes.total_weights == before.sizes.total_weights
    model = load_model(done.folder)
    experts, attention = model.layers[1].experts, model.layers[0].attention
    assert isinstance(experts, PackedExperts)
    found = {matrix: experts.matrix(0, matrix) for matrix in names}
    for matrix, linear in linears.items():
        wide = HQQLinear(None, None, compute_dtype=torch.float32, device="cpu")
        wide.load_state_dict(dict(linear.state_dict()))
        ours = getattr(attention, "q").matrix if matrix == "q" else found[matrix]  # noqa: B009
        assert torch.equal(dequantize(ours), wide.dequantize())


@pytest.mark.parametrize(
    ("name", "bits", "changes", "said"),
    [
        (hqq_names.expert(0, 1)["up"], 2, {"axis": 0}, "groups along axis 0"),
        (hqq_names.expert(0, 1)["gate"], 8, {}, "has 8 bits; experts may have 1, 2, 3, 4"),
        (hqq_names.expert(0, 1)["down"], 3, {}, "3 bits .* instead of 2 bits"),
        (hqq_names.expert(0, 1)["up"], 2, {"group_size": 64}, "groups of 64 instead of 2 bits and"),
        (hqq_names.attention(0)["v"], 2, {}, "instead of 4 bits"),
    ],
)
def test_a_layer_that_does_not_fit_the_others_is_refused(
    exported: Path, tmp_path: Path, name: str, bits: int, changes: dict[str, Any], said: str
) -> None:
    _, tensors = quantized_by_hqq(exported, name, bits, **changes)
    change(exported, f"{name}.W_q", tensors)
    with pytest.raises(CheckpointError, match=said):
        import_hqq(exported, tmp_path / "back", silent)
    assert not any(tmp_path.glob("back*"))


# --- what is damaged ------------------------------------------------------------------------------

ROUTER = hqq_names.rest(0)["router.weight"]


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        (ROUTER, None, f"should hold {ROUTER}"),
        (ROUTER, torch.zeros(4, 63).half(), r"instead of torch.bfloat16 \(4, 64\)"),
        (ROUTER, torch.zeros(4, 64).int(), r"is torch.int32"),
        ("lm_head.weight", None, "should hold lm_head.weight"),
        ("lm_head.bias", torch.zeros(4), "and no more of lm_head"),
        ("model.layers.7.input_layernorm.weight", torch.zeros(4), "which no Mixtral of its shape"),
        (f"{hqq_names.attention(1)['k']}.zero", None, "it has no zero"),
        (f"{hqq_names.attention(1)['k']}.bias", torch.zeros(32), "has a bias"),
    ],
)
def test_an_altered_export_is_refused(
    exported: Path, tmp_path: Path, name: str, tensor: Tensor | None, said: str
) -> None:
    beside = name if name in weights(exported) else "model.norm.weight"
    change(exported, beside, {name: tensor})
    with pytest.raises(CheckpointError, match=said):
        import_hqq(exported, tmp_path / "back", silent)
    assert not (tmp_path / "back").exists()


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "hqq.json").unlink(), "is no export to hqq"),
        (lambda folder: (folder / "hqq.json").write_text("[]"), "damaged"),
        (edit("hqq.json", format_version=2), "format version 2; this mc-chat reads 1"),
        (lambda folder: (folder / "exported-mc.json").unlink(), "no exported-mc.json"),
        (edit("config.json", num_hidden_layers=3), "describes 2 layers"),
        (edit("config.json", intermediate_size=128), "is 96 x 64 instead of 128 x 64"),
        (edit("exported-mc.json", layers=[]), "describes no layer"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (
            lambda folder: (folder / "model-00001-of-00003.safetensors").write_bytes(b"PK"),
            "not a whole safetensors file",
        ),
        (lambda folder: (folder / hqq_names.INDEX).unlink(), "holds no weights"),
    ],
)
def test_a_damaged_export_is_refused(
    exported: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    manifest = exported / "exported-mc.json"
    raw = json.loads(manifest.read_text())
    tokenizer = {"tokenizer.json": {"bytes": 1, "sha256": "0" * 64}}
    manifest.write_text(json.dumps(raw | {"files": raw["files"] | tokenizer}))
    damage(exported)
    with pytest.raises(McChatError, match=said):
        import_hqq(exported, tmp_path / "back", silent)
    assert not (tmp_path / "back").exists()


def test_an_altered_checkpoint_is_not_exported(tiny: Path, tmp_path: Path) -> None:
    path = tiny / "layer-01.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="was altered"):
        export_hqq(tiny, tmp_path / "out", silent)
    assert not any(tmp_path.glob("out*"))


# --- the disk -------------------------------------------------------------------------------------


def test_too_little_disk_is_said_before_anything_is_written(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = export_hqq(tiny, tmp_path / "first", silent).bytes
    usage = shutil.disk_usage(tmp_path)._replace(free=whole - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DiskFullError, match=r"bytes and .* are free"):
        export_hqq(tiny, tmp_path / "second", silent)
    assert not any(tmp_path.glob("second*"))


def test_a_run_that_was_killed_leaves_nothing_in_the_way(tiny: Path, tmp_path: Path) -> None:
    left = tmp_path / "out.writing"
    left.mkdir()
    (left / "model-00001-of-00003.safetensors.tmp").write_bytes(b"half")
    export_hqq(tiny, tmp_path / "out", silent)
    assert not any((tmp_path / "out").glob("*.tmp"))
    assert not left.exists()


def test_two_runs_on_one_output_refuse_each_other(tiny: Path, tmp_path: Path) -> None:
    said = []

    def again(step: str) -> None:
        with pytest.raises(UsageError, match="another mc-chat is writing"):
            export_hqq(tiny, tmp_path / "out", silent)
        said.append(step)

    export_hqq(tiny, tmp_path / "out", again)
    assert said


# --- the commands ---------------------------------------------------------------------------------


def run(*words: str | Path) -> int:
    return cli.main([str(word) for word in words])


@pytest.mark.usefixtures("every_step")
def test_the_commands_there_and_back(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("export", "tiny", "--format", "hqq", "--json") == 0
    told = capsys.readouterr()
    result = json.loads(told.out)
    folder = tmp_path / "tiny-hqq"
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert result == {
        "name": "tiny",
        "format": "hqq",
        "folder": str(folder),
        "files": len(list(folder.iterdir())),
        "bytes": size,
    }
    assert "exporting layer 2 of 2" in told.err

    assert run("import", folder) == 2
    assert "tiny exists already: choose another --out" in capsys.readouterr().err

    assert run("import", folder, "--out", "second", "--json") == 0
    told = capsys.readouterr()
    result = json.loads(told.out)
    assert (result["name"], result["changed"]) == ("second", [])
    assert result["expert_bits"] == [[3, 2, 2, 1], [1, 2, 2, 3]]
    assert "importing layer 2 of 2" in told.err
    assert contents(paths.models_dir() / "second") == contents(tiny)

    assert run("import", folder, "--out", tmp_path / "third") == 0
    assert "third" in capsys.readouterr().out
    assert contents(tmp_path / "third") == contents(tiny)


def test_the_import_says_what_has_changed(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(exported, ROUTER, {ROUTER: torch.zeros(4, 64).bfloat16()})
    assert run("import", exported, "--out", "other") == 0
    assert "not as they were exported: layer-00.safetensors" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("export", "tiny"), 2, "--format"),
        (("export", "tiny", "--format", "gguf"), 2, "invalid choice"),
        (("export", "nothing", "--format", "hqq"), 1, "no model named 'nothing'"),
        (("import", "nowhere"), 1, "is no export to hqq"),
        (("import", ".", "--out", ".."), 2, "no name for a model"),
    ],
)
def test_commands_that_make_no_sense_are_one_line(
    tiny: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, said: str
) -> None:
    assert run(*words) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert said in told.err
    assert len(told.err.splitlines()) == 1
