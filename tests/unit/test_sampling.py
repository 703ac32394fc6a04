"""The sampler against an independent NumPy version that works on sorted lists."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import UsageError
from engine.protocol import SamplingOptions
from engine.sampling import Sampler, distribution, penalise

CPU = torch.device("cpu")


def reference_distribution(logits: np.ndarray, options: SamplingOptions) -> np.ndarray:
    """Token by token in float64, most likely first."""
    scaled = logits.astype(np.float64) / options.temperature
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    if options.top_k:
        lowest = sorted(probabilities, reverse=True)[min(options.top_k, len(probabilities)) - 1]
        probabilities = np.where(probabilities >= lowest, probabilities, 0)
        probabilities /= probabilities.sum()
    if options.top_p < 1:
        total, kept = 0.0, []
        for token in np.argsort(-probabilities, kind="stable"):
            if total >= options.top_p:
                break
            kept.append(token)
            total += probabilities[token]
        probabilities = np.where(np.isin(np.arange(len(probabilities)), kept), probabilities, 0)
        probabilities /= probabilities.sum()
    if options.min_p:
        floor = options.min_p * probabilities.max()
        probabilities = np.where(probabilities >= floor, probabilities, 0)
        probabilities /= probabilities.sum()
    return probabilities


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 60),
    temperature=st.floats(0.05, 3),
    top_k=st.integers(0, 70),
    top_p=st.floats(0.05, 1),
    min_p=st.floats(0, 1),
)
def test_the_distribution_equals_the_reference(
    seed: int, size: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)
    options = SamplingOptions(temperature, top_k, top_p, min_p)
    ours = distribution(torch.from_numpy(logits), options).numpy()
    theirs = reference_distribution(logits, options)
    # A cut decided by the last digit may fall either way: compare where float32 can tell.
    if np.count_nonzero(ours) == np.count_nonzero(theirs):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    else:
        nearly = SamplingOptions(temperature, top_k, top_p * (1 + 1e-5), min_p * (1 - 1e-5))
        other = SamplingOptions(temperature, top_k, top_p * (1 - 1e-5), min_p * (1 + 1e-5))
        counts = {
            np.count_nonzero(reference_distribution(logits, near)) for near in (nearly, other)
        }
        assert np.count_nonzero(ours) in counts


def test_drawn_frequencies_follow_the_distribution() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -9.0])
    options = SamplingOptions(temperature=0.8, top_k=4, min_p=0.0, seed=5)
    sampler = Sampler(options, CPU)
    none_seen = torch.empty(0, dtype=torch.long)
    draws = [sampler.draw(logits, none_seen) for _ in range(4000)]
    frequencies = np.bincount(draws, minlength=5) / len(draws)
    expected = reference_distribution(logits.numpy(), options)
    # 4 standard deviations of a share near 1/2 over 4000 draws
    np.testing.assert_allclose(frequencies, expected, atol=4 * 0.5 / 4000**0.5)
    assert frequencies[4] == 0


def test_temperature_zero_is_greedy() -> None:
    sampler = Sampler(SamplingOptions(temperature=0, top_k=1), CPU)
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert sampler.draw(logits, torch.empty(0, dtype=torch.long)) == int(logits.argmax())


def test_a_tiny_temperature_does_not_overflow() -> None:
    probabilities = distribution(torch.tensor([80.0, -80.0]), SamplingOptions(temperature=1e-38))
    assert probabilities.tolist() == [1.0, 0.0]


def test_the_same_seed_draws_the_same_tokens() -> None:
    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingOptions(temperature=1.5, min_p=0, seed=seed), CPU)
        return [sampler.draw(torch.zeros(1000), torch.empty(0).long()) for _ in range(20)]

    assert draws(7) == draws(7)
    assert draws(7) != draws(8)
    assert draws(None) != draws(None)


def test_the_penalty_makes_seen_tokens_less_likely_and_leaves_the_rest() -> None:
    logits = torch.tensor([2.0, -2.0, 1.0, -1.0])
    seen = torch.tensor([0, 1, 1, 0])
    assert penalise(logits, seen, 2.0).tolist() == [1.0, -4.0, 1.0, -1.0]
    assert logits.tolist() == [2.0, -2.0, 1.0, -1.0], "the caller's logits stay"


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(temperature=-0.1),
        SamplingOptions(temperature=float("nan")),
        SamplingOptions(top_k=-1),
        SamplingOptions(top_p=0.0),
        SamplingOptions(top_p=1.1),
        SamplingOptions(min_p=-0.1),
        SamplingOptions(repetition_penalty=0.0),
    ],
)
def test_values_out_of_range_are_refused(options: SamplingOptions) -> None:
    with pytest.raises(UsageError):
        Sampler(options, CPU)
