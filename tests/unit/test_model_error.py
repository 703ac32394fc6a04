"""eps on the model's output against transformers' Mixtral in float64, one expert exchanged."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import MixtralForCausalLM

from compress.model_error import (
    check_cost,
    load_whole,
    model_errors,
    predict_cost,
    weights_bytes,
)
from compress.quantizers import quantizer
from compress.quantizers.hessian import Hessian
from compress.source import open_folder
from engine.config import MIXTRAL_8X7B
from engine.errors import DoesNotFitError, Interrupted
from engine.protocol import Device
from tests.unit.models_for_tests import save_tiny_mixtral

GROUP = 32
WIDTHS = (1, 3)
LAYERS = 3


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MixtralForCausalLM]:
    folder = tmp_path_factory.mktemp("source") / "tiny"
    model = save_tiny_mixtral(folder, num_hidden_layers=LAYERS, initializer_range=0.1)
    model.set_experts_implementation("eager")  # the default knows no float64
    return folder, model.double()


def quiet(layer: int, expert: int, done: float) -> None:
    """Nobody listens."""


def rounded(weight: Tensor, bits: int) -> Tensor:
    (codes,) = quantizer("minmax")(
        weight.float(), Hessian(torch.eye(weight.shape[-1])), (bits,), GROUP
    )
    return codes.dequantize().double()


def change(model: MixtralForCausalLM, tokens: Tensor, layer: int, expert: int, bits: int) -> float:
    """Norm of the logits' change when this expert is rounded; the model is as before."""
    experts = model.model.layers[layer].mlp.experts
    exact = model(tokens).logits
    kept = experts.gate_up_proj[expert].clone(), experts.down_proj[expert].clone()
    for matrix in (experts.gate_up_proj, experts.down_proj):
        matrix[expert] = rounded(matrix[expert], bits)
    changed = model(tokens).logits
    experts.gate_up_proj[expert], experts.down_proj[expert] = kept
    return float((changed - exact).norm())


def test_errors_are_the_change_of_the_logits(
    reference: tuple[Path, MixtralForCausalLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, theirs = reference
    # Two windows at a time, so that parts of the stream are put together.
    monkeypatch.setattr("compress.streams.WINDOW_TOKENS", 48)
    tokens = torch.randint(0, 96, (5, 24), generator=torch.Generator().manual_seed(0))
    ours = load_whole(open_folder(folder), torch.device("cpu"))
    found = model_errors(ours, tokens, quantizer("minmax"), GROUP, WIDTHS, quiet)
    assert len(found) == LAYERS
    with torch.inference_mode():
        for layer, errors in enumerate(found):
            for expert, row in enumerate(errors):
                expected = [change(theirs, tokens, layer, expert, bits) for bits in WIDTHS]
                assert row == pytest.approx(expected, rel=2e-3)


def test_it_says_how_far_it_is_and_can_be_stopped(
    reference: tuple[Path, MixtralForCausalLM],
) -> None:
    model = load_whole(open_folder(reference[0]), torch.device("cpu"))
    tokens = torch.randint(0, 96, (2, 16), generator=torch.Generator().manual_seed(0))
    heard: list[tuple[int, int, float]] = []

    def listener(layer: int, expert: int, done: float) -> None:
        heard.append((layer, expert, done))
        if layer == 2:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        model_errors(model, tokens, quantizer("minmax"), GROUP, WIDTHS, listener)
    fractions = [done for _, _, done in heard]
    assert fractions == sorted(fractions)
    assert heard[0][2] == 0.0
    # Two layers of passes behind layer 0, one behind layer 1, none behind the last.
    first_of_layer = {layer: done for layer, _, done in reversed(heard)}
    assert first_of_layer == pytest.approx({0: 0.0, 1: 2 / 3, 2: 1.0})


def test_the_weights_that_are_held_are_those_that_are_predicted(
    reference: tuple[Path, MixtralForCausalLM], tmp_path: Path
) -> None:
    reference[1].bfloat16().save_pretrained(tmp_path)
    reference[1].double()
    source = open_folder(tmp_path)
    model = load_whole(source, torch.device("cpu"))
    assert model.memory_bytes() == weights_bytes(source.config)


def test_what_does_not_fit_is_refused_before_it_starts() -> None:
    cost = predict_cost(MIXTRAL_8X7B, 128, 2048, (1, 2, 3))
    assert cost.layer_passes == 32 + 8 * 3 * 32 * 31 // 2
    assert 93e9 < cost.memory_bytes < 120e9
    gpu = Device("RTX 3090", "cuda", "cuda:0", 24 * 2**30, 23 * 2**30)
    with pytest.raises(DoesNotFitError, match="--error block"):
        check_cost(cost, gpu)
    check_cost(cost, replace(gpu, total_bytes=2**37, free_bytes=2**37))


def test_operations_are_those_of_the_passes() -> None:
    """Tokens that attend to nothing: twice the active weights, for each token and pass."""
    config = replace(MIXTRAL_8X7B, num_layers=2)
    once = predict_cost(config, 4, 1, (1, 2, 3))
    active = config.attention_weights + 2 * config.expert_weights
    assert once.layer_passes == 2 + 8 * 3
    assert once.operations == pytest.approx(2 * active * 4 * once.layer_passes, rel=1e-4)
