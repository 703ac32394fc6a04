"""Compressions of a tiny random Mixtral that round its routers and its head, too."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from compress import projection
from compress.calibration import CalibrationSize, calibrate
from compress.data_free import even_hessian
from compress.hub.card import model_card
from compress.pipeline import CompressJob, compress
from compress.progress import Progress
from compress.quantizers import quantizer
from compress.source import open_folder
from engine.attention import Rope
from engine.checkpoint import load_model
from engine.config import MIXTRAL_8X7B
from engine.errors import Interrupted, UsageError
from engine.linear import FloatLinear, Linear
from engine.manifest import MANIFEST_NAME, RestBits, open_manifest, verify_hashes
from tests.compressions_for_tests import contents, quiet
from tests.unit.models_for_tests import save_tiny_mixtral
from tests.unit.tokenizers_for_tests import SPECIAL, byte_level

REPOSITORY = Path(__file__).resolve().parents[2]
SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "vocab_size": 320,
    "num_hidden_layers": 2,
    "num_local_experts": 8,
    "initializer_range": 0.06,
}
SAMPLES, WINDOW = 6, 64


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def save_source(folder: Path, **changes: Any) -> Path:
    save_tiny_mixtral(folder, **{**SHAPE, **changes})
    byte_level().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(SPECIAL))
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_source(tmp_path_factory.mktemp("source") / "tiny")


@pytest.fixture(scope="module")
def text(source: Path) -> Path:
    path = source.parent / "text.txt"
    path.write_text((REPOSITORY / "engine" / "layout.py").read_text() * 2)
    return path


@pytest.fixture
def job(source: Path, text: Path, tmp_path: Path) -> CompressJob:
    out = tmp_path / "out"
    return CompressJob(
        source, out, text=text, samples=SAMPLES, window=WINDOW, group_size=64, bits=2.0
    )


def tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, by file and name."""
    files = sorted(folder.glob("*.safetensors"))
    return {f"{p.stem}/{name}": tensor for p in files for name, tensor in load_file(p).items()}


def made(job: CompressJob, name: str, **changes: Any) -> Path:
    """The result of a job of its own name."""
    return compress(replace(job, out=job.out.with_name(name), **changes), quiet)


# --- what comes out -------------------------------------------------------------------------------


def test_by_default_both_stay_as_they_are(job: CompressJob, source: Path) -> None:
    found = tensors(compress(job, quiet))
    names = {name.split("/")[1] for name in found}
    assert {"router.weight", "head.weight"} < names
    assert not {name for name in names if name.startswith(("router.c", "head.c"))}
    assert '_bits": 16' not in (job.out / MANIFEST_NAME).read_text()
    original = open_folder(source)
    exact = original.tensor("model.layers.1.block_sparse_moe.gate.weight")
    assert torch.equal(found["layer-01/router.weight"], exact.half())
    assert torch.equal(found["dense/head.weight"], original.tensor("lm_head.weight").half())


@pytest.mark.parametrize(
    "changes",
    [
        {"router_bits": 4},
        {"head_bits": 8},
        {"router_bits": 4, "head_bits": 4, "allocator": "global", "quantizer": "rtn"},
        {"router_bits": 4, "head_bits": 8, "quantizer": "hqq", "text": None},
    ],
    ids=["router", "head", "both, two passes", "both, no text"],
)
def test_what_is_asked_for_is_packed_and_nothing_else(
    job: CompressJob, changes: dict[str, Any]
) -> None:
    out = compress(replace(job, **changes), quiet)
    manifest = open_manifest(out)
    verify_hashes(out, manifest)
    rest = RestBits(changes.get("router_bits", 16), changes.get("head_bits", 16))
    assert manifest.recipe.rest == rest
    found = tensors(out)
    for prefix, bits in (("layer-00/router", rest.router), ("dense/head", rest.head)):
        packed = {name for name in found if name.startswith(prefix)}
        parts = ("weight",) if bits == 16 else ("codes", "scales", "zeros")
        assert packed == {f"{prefix}.{part}" for part in parts}
    assert sum(tensor.nbytes for tensor in found.values()) == manifest.sizes.total_bytes
    logits = load_model(out).forward(torch.arange(50)[None])
    assert torch.isfinite(logits).all()


def test_a_head_of_more_bits_is_closer(job: CompressJob) -> None:
    """The layers, which come first, are the same in all three."""
    full, eight, four = (made(job, f"{bits}", head_bits=bits) for bits in (16, 8, 4))
    for name in ("layer-00.safetensors", "layer-01.safetensors"):
        assert contents(full)[name] == contents(eight)[name] == contents(four)[name]
    tokens = torch.randint(0, 300, (8, 64), generator=torch.Generator().manual_seed(0))
    exact = load_model(full).forward(tokens)

    def error(folder: Path) -> float:
        return float((load_model(folder).forward(tokens) - exact).norm() / exact.norm())

    assert 0.0 < error(eight) < 0.01
    # Each bit halves the step: 8 levels more are 16 times closer, GPTQ or not.
    assert 8 * error(eight) < error(four) < 0.12


def test_the_head_is_fitted_to_what_the_quantized_layers_put_out(job: CompressJob) -> None:
    """On the calibration text it errs less than the head that only looks at its weights."""
    plain, fitted = made(job, "plain"), load_model(made(job, "fitted", head_bits=4)).head
    model, tokens = load_model(plain), calibration_tokens(job)
    (weight,) = model.head.tensors()
    (codes,) = quantizer("rtn")(weight.float(), even_hessian(weight.shape[1]), (4,), 64)
    logits = model.forward(tokens)

    def error(head: Linear) -> float:
        return float((replace(model, head=head).forward(tokens) - logits).norm())

    assert error(fitted) < 0.5 * error(FloatLinear(codes.dequantize()))


def calibration_tokens(job: CompressJob) -> Tensor:
    assert isinstance(job.source, Path)
    size = CalibrationSize(SAMPLES, WINDOW)
    return calibrate(open_folder(job.source), job.text, size, job.seed, offline=True).tokens


def test_tokens_go_where_the_rounded_router_sends_them(job: CompressJob) -> None:
    """ODP's threshold, the median of w1/w0, is of the very routing that the engine will do."""
    out = compress(replace(job, router_bits=4), quiet)
    model, tokens = load_model(out), calibration_tokens(job)
    layer = model.layers[0]
    stream = layer.attend(model.embed_tokens(tokens), Rope(model.config, "cpu").at(0, WINDOW))
    normed = layer.moe_input(stream)
    original = open_folder(Path(job.source)).layer(0).router

    def median(router: Linear) -> float:
        weights = replace(layer, router=router).route(normed).weights
        return float((weights[:, 1] / weights[:, 0]).median())

    found = open_manifest(out).layers[0].odp_threshold
    # The file has norms in 16 bits.
    assert found == pytest.approx(median(layer.router), rel=1e-3)
    assert found != pytest.approx(median(original), rel=3e-3)


# --- stopping and going on ------------------------------------------------------------------------


def at(said: str) -> Callable[[Progress], None]:
    """A listener that interrupts at the step that is described so."""

    def listener(progress: Progress) -> None:
        if said in progress.message:
            raise Interrupted("stop")

    return listener


@pytest.mark.parametrize("allocator", ["pmq", "global"])
def test_resumed_it_is_the_same_bytes(job: CompressJob, allocator: str) -> None:
    both = replace(job, router_bits=4, head_bits=4, allocator=allocator, quantizer="gptq")
    whole = contents(compress(replace(both, out=job.out.with_name("whole")), quiet))
    del whole[MANIFEST_NAME]  # the name is in it
    for said in ("quantizing expert 3", "quantizing the head to 4 bits", "outside the layers"):
        with pytest.raises(Interrupted):
            compress(both, at(said))
    resumed = contents(compress(both, quiet))
    del resumed[MANIFEST_NAME]
    assert resumed == whole


def test_unfinished_work_with_another_router_or_head_is_not_thrown_away(job: CompressJob) -> None:
    with pytest.raises(Interrupted):
        compress(replace(job, head_bits=8), at("scoring expert 2"))
    for changes in ({"head_bits": 4}, {"head_bits": 16}, {"head_bits": 8, "router_bits": 4}):
        with pytest.raises(UsageError, match="--restart"):
            compress(replace(job, **changes), quiet)


# --- what does not go -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"router_bits": 8}, "--router-bits 8 is not possible: choose 4 or 16"),
        ({"head_bits": 3}, "--head-bits 3 is not possible: choose 4 or 8 or 16"),
    ],
)
def test_other_widths_are_refused(job: CompressJob, changes: dict[str, int], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        compress(replace(job, **changes), quiet)


def test_a_head_that_is_the_embeddings_is_not_rounded(job: CompressJob, tmp_path: Path) -> None:
    tied = save_source(tmp_path / "tied", tie_word_embeddings=True)
    with pytest.raises(UsageError, match="this model's head is its embeddings") as caught:
        compress(replace(job, source=tied, head_bits=8), quiet)
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.glob("out*"))
    packed = compress(replace(job, source=tied, router_bits=4), quiet)
    assert open_manifest(packed).recipe.rest == RestBits(router=4)


# --- what is said of it ---------------------------------------------------------------------------


def test_the_card_names_what_is_packed(job: CompressJob) -> None:
    plain = open_manifest(compress(job, quiet))
    recipe = replace(plain.recipe, router_bits=4, head_bits=8)
    assert "bits of the routers" not in model_card(plain, "you/tiny")
    card = model_card(replace(plain, recipe=recipe), "you/tiny")
    assert "| bits spread by | PMQ, one program over all layers (global) |" in card
    assert "| bits of the routers | 4 |\n| bits of the head | 8 |" in card


def test_disk_and_memory_are_projected_with_it() -> None:
    def disk(rest: RestBits) -> int:
        download = projection.Download()
        return projection.disk_bytes(MIXTRAL_8X7B, 0, 128, 8192, download, "streamed", rest)

    saved = disk(RestBits()) - disk(RestBits(head=8))
    assert saved == 32_000 * 4096 * (16 - 8 - 32 / 128) / 8
    # No Mixtral's experts are so narrow that its head would be the peak.
    assert projection.work_bytes(MIXTRAL_8X7B, 3, 4) == projection.work_bytes(MIXTRAL_8X7B, 3)
    narrow = replace(MIXTRAL_8X7B, intermediate_size=1024)
    head = narrow.vocab_size * narrow.hidden_size * (2 + 4 + 1) + 4 * 4096**2
    assert projection.work_bytes(narrow, 3, 4) > head > projection.work_bytes(narrow, 3)
