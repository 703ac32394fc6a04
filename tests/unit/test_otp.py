import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.kinds import LayerByLayer
from compress.calibration import CalibrationSize, text_windows
from compress.pruning.damage import LayerDamage, measure_damage
from compress.pruning.job import PruneJob, learn_otp
from compress.pruning.otp import fit_router, price_for, skipped_share
from engine.attention import AttentionStatistics
from engine.cache import KVCache
from engine.checkpoint import load_model, open_checkpoint
from engine.counters import Counters
from engine.errors import CheckpointError, UsageError
from engine.manifest import OTP_FILE, read_manifest
from engine.model import Model
from engine.otp import OtpPruning, choose_count, keep_first
from engine.pruning import NO_PRUNING, OdpPruning, Routing, route
from engine.tokenizer import Tokenizer
from tests.unit.models_for_tests import save_tiny_mixtral, write_compressed
from tests.unit.packed_models_for_tests import Shape, random_model
from tests.unit.tokenizers_for_tests import SPECIAL, byte_level


class KeepFirst:
    """Keeps the first ``count`` experts of every token in one layer."""

    needs_statistics = False

    def __init__(self, layer: int, count: int) -> None:
        self._layer, self._count = layer, count

    def decode_rule(self, num_layers: int) -> None:
        return None

    def prune(
        self, layer: int, routing: Routing, tokens: Tensor, attention: AttentionStatistics | None
    ) -> Routing:
        if layer != self._layer:
            return routing
        return keep_first(routing, torch.full((len(routing.ids),), self._count))


class Heard:
    """The routings of every layer of every token, and the logits."""

    def __init__(self) -> None:
        self.routings: list[Routing] = []
        self.logits: list[Tensor] = []

    def record(self, layer: int, routing: Routing) -> None:
        self.routings.append(routing)


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A compressed checkpoint of three experts a token, with a tokenizer."""
    original, folder = tmp_path / "original", tmp_path / "build"
    save_tiny_mixtral(original, vocab_size=300, num_experts_per_tok=3)
    write_compressed(original, folder, (2, 3, 2, 3))
    byte_level().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(SPECIAL))
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(" ".join(map(str, range(1000))))
    return path


def learned(build: Path) -> OtpPruning:
    manifest, config = open_checkpoint(build)
    found = OtpPruning.load(build, manifest, config, "cpu")
    assert found is not None
    return found


@pytest.mark.parametrize("top_k", [2, 3, 5])
def test_the_count_is_the_cheapest_of_all(top_k: int) -> None:
    torch.manual_seed(top_k)
    logarithms, price = torch.randn(300, top_k - 1) * 2, 0.4
    found = choose_count(logarithms, price)
    for row, count in zip(logarithms.double().tolist(), found.tolist(), strict=True):
        costs = {m: math.exp(row[m - 1]) + price * m for m in range(1, top_k)}
        costs[top_k] = price * top_k
        assert costs[count] == pytest.approx(min(costs.values()))
    assert set(found.tolist()) == set(range(1, top_k + 1))


def test_at_no_price_nothing_is_skipped_and_at_any_only_the_first_is_left() -> None:
    logarithms = torch.tensor([[-500.0, -300.0], [90.0, 500.0]])
    assert choose_count(logarithms, 0.0).tolist() == [3, 3]
    assert choose_count(logarithms[:1], 1e-3).tolist() == [1]


@pytest.mark.parametrize("renormalised", [True, False])
def test_those_that_stay_share_the_weight(renormalised: bool) -> None:
    torch.manual_seed(0)
    routing = route(torch.randn(40, 8), 4, renormalised)
    count = torch.arange(40) % 4 + 1
    found = keep_first(routing, count)
    for row in range(40):
        kept = int(count[row])
        ids, weights = routing.ids[row].tolist(), routing.weights[row].double()
        assert found.ids[row].tolist() == ids[:kept] + [-1 - id for id in ids[kept:]]
        expected = weights[:kept] * weights.sum() / weights[:kept].sum()
        torch.testing.assert_close(found.weights[row, :kept].double(), expected)
        assert not found.weights[row, kept:].any()
    assert torch.equal(found.weights[3::4], routing.weights[3::4])  # to the bit


def test_damage_is_what_the_stream_behind_the_layer_changes_by() -> None:
    model = random_model(Shape(top_k=3, vocab=70))
    windows = torch.randint(70, (3, 20), generator=torch.Generator().manual_seed(1))
    rope = model.rope.at(0, 20)
    found = list(measure_damage(model, windows))
    x = model.embed_tokens(windows)
    for layer, damage in zip(model.layers, found, strict=True):
        exact = layer.forward(x, rope).double().flatten(0, 1)
        for count in (1, 2):
            changed = layer.forward(x, rope, pruning=KeepFirst(layer.index, count))
            change = (changed.double().flatten(0, 1) - exact).square().sum(1)
            expected = change / exact.square().sum(1)
            torch.testing.assert_close(
                damage.damages[:, count - 1].double(), expected, rtol=1e-3, atol=1e-9
            )
        x = layer.forward(x, rope)


def test_a_router_finds_what_the_damage_hangs_on() -> None:
    torch.manual_seed(5)
    tokens, weights = torch.randn(4000, 12), route(torch.randn(4000, 6), 3).weights
    ratios = (weights[:, 1:] / weights[:, :1]).log()
    slopes = torch.randn(12, 2) * 0.3
    logarithms = tokens @ slopes + ratios * torch.tensor([2.0, 1.0]) - 1.0
    fitted = fit_router(LayerDamage(tokens, weights, logarithms.exp()))
    torch.testing.assert_close(fitted.foretold, logarithms, rtol=0.01, atol=0.02)
    torch.testing.assert_close(fitted.router[:, :12], slopes.T, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("skipped", [0.1, 0.45, 0.6])
def test_the_price_skips_the_share_that_was_asked_for(skipped: float) -> None:
    torch.manual_seed(2)
    foretold = [torch.randn(5000, 2) + shift for shift in (-3.0, 0.0, 2.0)]
    price = price_for(foretold, skipped)
    assert skipped_share(foretold, price) == pytest.approx(skipped, abs=1e-3)


@pytest.mark.parametrize("skipped", [0.0, 2 / 3, -1.0, math.nan])
def test_an_impossible_share_is_refused(skipped: float) -> None:
    with pytest.raises(UsageError, match="cannot be skipped"):
        price_for([torch.zeros(4, 2)], skipped)


def test_what_is_learned_is_stored_and_skips_its_share(build: Path, text: Path) -> None:
    record = learn_otp(PruneJob(build, 0.3, text, samples=8, window=64), lambda step: None)
    manifest = read_manifest(build)
    assert manifest.otp == record
    assert record.skipped == pytest.approx(0.3, abs=0.01)
    otp, model = learned(build), load_model(build)
    assert otp.price == record.price
    counters = Counters(model)
    windows = torch.tensor([list(b" ".join(b"%d" % n for n in range(200)))[:400]])
    with torch.inference_mode():
        whole = model.forward(windows[:, :200], None, otp, counters)
    assert 0.1 < counters.read().prune_ratio < 0.5
    first = (build / OTP_FILE).read_bytes()
    learn_otp(PruneJob(build, 0.3, text, samples=8, window=64), lambda step: None)
    assert (build / OTP_FILE).read_bytes() == first
    with torch.inference_mode():
        beginning = model.forward(windows[:, :3], None, otp)
    torch.testing.assert_close(beginning, whole[:, :3], rtol=1e-3, atol=1e-3)  # causal


def test_strength_goes_from_nothing_to_more(build: Path, text: Path) -> None:
    learn_otp(PruneJob(build, 0.3, text, samples=8, window=64), lambda step: None)
    otp = learned(build)
    torch.manual_seed(0)
    tokens, routing = torch.randn(500, 64), route(torch.randn(500, 4), 3)
    shares = [
        float((otp.scaled(strength).prune(0, routing, tokens, None).ids < 0).double().mean())
        for strength in (0.0, 0.5, 1.0, 2.0)
    ]
    assert shares[0] == 0
    assert all(a < b for a, b in itertools.pairwise(shares))
    with pytest.raises(UsageError, match="from 0 to 2"):
        otp.scaled(2.5)


def test_fewer_parameters_are_so_many_slots(build: Path, text: Path) -> None:
    learn_otp(PruneJob(build, fewer=0.1, text=text, samples=8, window=64), lambda step: None)
    model = load_model(build)
    size = CalibrationSize(8, 64)
    windows = text_windows(text, Tokenizer.from_folder(build), size, 0)
    activated = []
    for pruning in (NO_PRUNING, learned(build)):
        counters = Counters(model)
        with torch.inference_mode():
            model.forward(windows, None, pruning, counters)
        activated.append(counters.read().activated_params)
    assert 1 - activated[1] / activated[0] == pytest.approx(0.1, abs=0.02)
    with pytest.raises(UsageError, match="cannot be skipped"):
        learn_otp(PruneJob(build, fewer=0.9, text=text, samples=8, window=64), lambda step: None)


def test_a_build_without_routers_has_none(build: Path) -> None:
    manifest, config = open_checkpoint(build)
    assert OtpPruning.load(build, manifest, config, "cpu") is None


@pytest.mark.parametrize("harm", ["missing", "shape", "infinite", "unlisted", "price"])
def test_damaged_routers_are_refused(build: Path, text: Path, harm: str) -> None:
    learn_otp(PruneJob(build, 0.3, text, samples=8, window=64), lambda step: None)
    path, manifest = build / OTP_FILE, read_manifest(build)
    routers = load_file(path)["otp.weight"]
    match harm:
        case "missing":
            path.unlink()
        case "shape":
            save_file({"otp.weight": routers.transpose(1, 2).contiguous()}, path)
        case "infinite":
            routers[0, 0, 0] = math.inf
            save_file({"otp.weight": routers}, path)
        case "unlisted":
            files = {name: file for name, file in manifest.files.items() if name != OTP_FILE}
            (build / "mc.json").write_text(replace(manifest, files=files).to_json())
        case "price":
            assert manifest.otp is not None
            wrong = replace(manifest, otp=replace(manifest.otp, price=-1.0))
            (build / "mc.json").write_text(wrong.to_json())
    with pytest.raises(CheckpointError):
        learned(build)


def test_one_expert_a_token_leaves_nothing_to_skip(tmp_path: Path, text: Path) -> None:
    original, folder = tmp_path / "original", tmp_path / "build"
    save_tiny_mixtral(original, num_experts_per_tok=1)
    write_compressed(original, folder, (2, 2, 2, 2))
    with pytest.raises(UsageError, match="nothing to skip"):
        learn_otp(PruneJob(folder, text=text), lambda step: None)


def as_the_layers_do(model: Model, pruning: OtpPruning | OdpPruning) -> list[int]:
    """Compare the compiled step under a pruning with the layers; returns how many experts ran, a
    number for each token and layer."""
    torch.manual_seed(9)
    tokens = torch.randint(model.config.vocab_size, (24,)).tolist()
    caches = [KVCache(model.config, 24, 1, "cpu", torch.float32) for _ in range(2)]
    compiled, general = Heard(), Heard()
    ways = (compiled, caches[0], pruning), (general, caches[1], LayerByLayer(pruning))
    for heard, cache, way in ways:
        with torch.inference_mode():
            for token in tokens:
                logits = model.forward(torch.tensor([[token]]), cache, way, heard)
                heard.logits.append(logits)
    step = model.decoder.step(model)
    assert step is not None
    assert step.takes(caches[0], pruning.decode_rule(model.config.num_layers))
    for found, expected in zip(compiled.routings, general.routings, strict=True):
        assert torch.equal(found.ids, expected.ids)
        torch.testing.assert_close(found.weights, expected.weights, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        torch.cat(compiled.logits), torch.cat(general.logits), rtol=1e-3, atol=1e-3
    )
    return [int((routing.ids >= 0).sum()) for routing in general.routings]


@pytest.mark.parametrize(
    "shape",
    [Shape(), Shape(top_k=3, rotated=True), Shape(top_k=4, hidden=128, group=64, inner=128)],
    ids=["two", "three", "four"],
)
def test_the_compiled_step_keeps_as_many(shape: Shape) -> None:
    torch.manual_seed(9)
    routers = torch.randn(shape.layers, shape.top_k - 1, shape.hidden + shape.top_k) * 0.2
    ran = as_the_layers_do(random_model(shape), OtpPruning(routers, 0.5))
    assert set(ran) == set(range(1, shape.top_k + 1))


def test_the_compiled_step_has_odps_thresholds_for_every_rank() -> None:
    odp = OdpPruning((0.7, 0.5), (14.0, 20.0), ranks=((0.6, 0.2), (0.3, 0.4)))
    ran = as_the_layers_do(random_model(Shape(top_k=4)), odp)
    assert set(ran) >= {1, 2, 4}


def test_from_token_to_token_the_rule_may_change() -> None:
    model = random_model(Shape())
    routers = torch.zeros(2, 1, 66)
    shares = []
    for pruning in (OtpPruning(routers, 2.0), NO_PRUNING, OtpPruning(routers, 0.5)):
        cache, heard = KVCache(model.config, 8, 1, "cpu", torch.float32), Heard()
        with torch.inference_mode():
            for token in (3, 4):
                model.forward(torch.tensor([[token]]), cache, pruning, heard)
        shares.append([int((routing.ids < 0).sum()) for routing in heard.routings])
    assert shares == [[1] * 4, [0] * 4, [0] * 4]
