"""Scores by the weights alone, against plain float64 sums."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.allocation import Budget, allocate
from compress.data_free import (
    DATA_FREE_QUANTIZERS,
    ODP_QUANTILE,
    ODP_THRESHOLD,
    data_free_quantizer,
    data_free_scores,
    even_hessian,
)
from compress.quantizers import QUANTIZERS
from compress.quantizers.hessian import Hessian
from engine.attention import AttentionStatistics
from engine.errors import UsageError
from engine.pruning import OdpPruning, route

GROUP_SIZE = 64
HIDDEN, INNER = 128, 192


def experts(scales: tuple[float, ...], seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Random experts, each with weights of its own size."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int, scale: float) -> Tensor:
        return scale * torch.randn(rows, columns, generator=generator)

    return [(matrix(2 * INNER, HIDDEN, s), matrix(HIDDEN, INNER, s)) for s in scales]


@pytest.mark.parametrize("name", DATA_FREE_QUANTIZERS)
def test_eps_is_the_error_of_the_weights(name: str) -> None:
    given = experts((1.0, 0.5))
    quantize = data_free_quantizer(name)
    found = data_free_scores(iter(given), quantize, GROUP_SIZE, (1, 2, 3, 4))
    assert found.widths == (1, 2, 3, 4)
    for expert, errors in zip(given, found.errors, strict=True):
        for bits, error in zip(found.widths, errors, strict=True):
            total = 0.0
            for weights in expert:
                identity = Hessian(torch.eye(weights.shape[1]))
                (codes,) = quantize(weights, identity, (bits,), GROUP_SIZE)
                assert codes.zero is not None or bits == 1
                zero = (
                    np.float64(0.5)
                    if codes.zero is None
                    else codes.zero.double().numpy()[..., None]
                )
                levels = codes.codes.double().numpy().reshape(len(weights), -1, GROUP_SIZE)
                rounded = (levels - zero) * codes.scale.double().numpy()[..., None]
                exact = weights.double().numpy().reshape(rounded.shape)
                total += float(((rounded - exact) ** 2).sum())
            assert error == pytest.approx(total**0.5, rel=1e-5)
        assert list(errors) == sorted(errors, reverse=True)


def test_all_experts_count_the_same_and_the_larger_errors_get_the_bits() -> None:
    scales = (0.1, 2.0, 0.3, 1.0)
    scores = data_free_scores(experts(scales), data_free_quantizer("minmax"), GROUP_SIZE, (1, 2, 3))
    assert scores.frequency == scores.routing_weight == (0.25,) * 4
    assert (scores.trace_errors, scores.stream_norm) == ((), 0.0)
    widths = allocate("pmq", scores, Budget(8, (3, 2), ()))
    assert widths[1] == max(widths)
    assert widths[0] == min(widths)


def test_one_expert_is_asked_for_at_a_time() -> None:
    """The next is made when the scores of the one before are done."""
    order: list[str] = []
    quantize = data_free_quantizer("minmax")

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        for index, expert in enumerate(experts((1.0, 1.0))):
            order.append(f"expert {index}")
            yield expert

    def watched(*arguments: object) -> object:
        order.append("quantize")
        return quantize(*arguments)  # type: ignore[arg-type]

    data_free_scores(stream(), watched, GROUP_SIZE, (2,))  # type: ignore[arg-type]
    assert order == ["expert 0", *["quantize"] * 2, "expert 1", *["quantize"] * 2]


@pytest.mark.parametrize("name", sorted(set(QUANTIZERS) - set(DATA_FREE_QUANTIZERS)))
def test_what_needs_text_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"--quantizer {name} needs calibration text"):
        data_free_quantizer(name)


def test_odp_without_a_learned_threshold_skips_nothing() -> None:
    logits = torch.randn(50, 8, generator=torch.Generator().manual_seed(3)) * 20
    logits[0] = torch.tensor([100.0] + [-100.0] * 7)  # w1 underflows to 0
    routing = route(logits, top_k=2)
    assert float(routing.weights[:, 1].min()) == 0.0
    pruning = OdpPruning((ODP_THRESHOLD,), (ODP_QUANTILE,))
    for length in (50, 1):
        seen = torch.rand(1, 50 if length > 1 else 1)
        statistics = AttentionStatistics(received=seen, own=seen, decoding=length == 1)
        tokens = torch.randn(seen.numel(), 16)
        few = type(routing)(routing.ids[: seen.numel()], routing.weights[: seen.numel()])
        kept = pruning.prune(0, few, tokens, statistics)
        assert torch.equal(kept.ids, few.ids)
        assert torch.equal(kept.weights, few.weights)


def test_the_even_hessian_takes_no_memory() -> None:
    found = even_hessian(14_336)
    assert found.diagonal.tolist() == [1.0] * 14_336
    assert found.matrix.untyped_storage().nbytes() == 4
