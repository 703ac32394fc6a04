"""The gauges against counts made by hand."""

import pytest
import torch

from engine.checkpoint import load_model
from engine.meters import ReplyMeter
from engine.model import Model
from engine.protocol import Memory
from engine.pruning import Routing
from tests.checkpoints_for_tests import EXPERT_BITS, write_tiny_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_checkpoint(folder)
    return load_model(folder)


def record(meter: ReplyMeter, *slots: tuple[int, int]) -> None:
    """The same routing of a few tokens in every layer."""
    ids = torch.tensor(slots)
    for layer in range(len(EXPERT_BITS)):
        meter.counters.record(layer, Routing(ids, torch.full(ids.shape, 0.5)))


def test_parameters_and_bytes_that_tokens_pass(model: Model) -> None:
    meter = ReplyMeter(model)
    record(meter, (0, 3), (1, -1), (2, 1))
    meters = meter.read(17, 128, Memory(weights=5))
    hidden, inner, vocabulary, layers = 64, 96, 2048, 2
    attention = hidden * 16 * (4 + 2 + 2 + 4)
    dense = layers * (attention + 4 * hidden + 2 * hidden) + hidden * (vocabulary + 2)
    expert = 3 * hidden * inner
    assert meters.activated_params == round(dense + layers * 5 / 3 * expert)
    assert meters.activated_fraction == pytest.approx(
        (dense + layers * 5 / 3 * expert) / model.config.total_weights
    )
    widths = [[layer[expert] for expert in (0, 3, 1, 2, 1)] for layer in EXPERT_BITS]
    # Groups of 32: a 16-bit scale, and above one bit a zero point, per 32 weights.
    per_weight = {1: 1 + 0.5, 2: 2 + 1.0, 3: 3 + 1.0}
    experts = sum(per_weight[bits] for layer in widths for bits in layer) / 8 * expert / 3
    dense_bytes = (
        layers * (attention * (4 + 1) / 8 + (4 + 2) * hidden * 4)  # 4 bits; float32
        + vocabulary * hidden * 2  # the head, 16-bit
        + hidden * 2  # a row of the embeddings
        + hidden * 4  # the last norm, float32
    )
    assert meters.activated_bytes == round(dense_bytes + experts)
    assert (meters.context_used, meters.context_size, meters.memory.weights) == (17, 128, 5)


def test_prune_ratios_over_the_reply_per_layer_and_now(model: Model) -> None:
    meter = ReplyMeter(model)
    record(meter, *[(0, 1)] * 9)
    first = meter.read(0, 0, Memory())
    assert (first.prune_ratio, first.prune_ratio_now) == (0, 0)
    record(meter, (2, -1))
    second = meter.read(0, 0, Memory())
    assert second.prune_ratio == pytest.approx(1 / 20)
    assert second.prune_ratio_layers == pytest.approx((1 / 20, 1 / 20))
    assert second.prune_ratio_now == 0.5, "only the token since the reading before"


def test_runs_of_each_expert_and_what_was_skipped_are_told(model: Model) -> None:
    meter = ReplyMeter(model)
    record(meter, (0, 1), (3, 0), (2, -4))
    meters = meter.read(0, 0, Memory())
    assert meters.expert_runs == ((2, 1, 1, 1),) * len(EXPERT_BITS)
    assert meters.expert_skips == ((0, 0, 0, 1),) * len(EXPERT_BITS)


def test_an_unused_meter_is_all_zeros(model: Model) -> None:
    meters = ReplyMeter(model).read(0, 0, Memory())
    assert (meters.activated_params, meters.activated_bytes, meters.prune_ratio) == (0, 0, 0)
    assert (meters.tokens_per_second, meters.time_to_first_token) == (0, 0)


def test_speed_counts_the_tokens_after_the_first(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    meter = ReplyMeter(model)
    for seconds in (3.0, 0.5, 0.25, 0.25):
        now[0] += seconds
        meter.token()
    now[0] += 99  # nothing was drawn since
    assert meter.time_to_first_token == 3.0
    assert meter.tokens_per_second == 3 / 1.0
