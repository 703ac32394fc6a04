"""The sampler against an independent NumPy version that works on sorted lists."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.errors import UsageError, WorkerError
from engine.protocol import SamplingOptions
from engine.sampling import Sampler, _first_beyond, distribution, penalise


def dense(logits: NDArray[np.float32], options: SamplingOptions) -> NDArray[np.float64]:
    """Our distribution over the whole vocabulary."""
    tokens, shares = distribution(logits, options)
    assert (np.diff(tokens) > 0).all()
    probabilities = np.zeros(len(logits))
    probabilities[tokens] = shares / shares.sum(dtype=np.float64)
    return probabilities


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
    ours = dense(logits, options)
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
    logits = np.array([2.0, 1.0, 0.0, -1.0, -9.0], np.float32)
    options = SamplingOptions(temperature=0.8, top_k=4, min_p=0.0, seed=5)
    sampler = Sampler(options, 5)
    draws = [sampler.draw(logits) for _ in range(4000)]
    frequencies = np.bincount(draws, minlength=5) / len(draws)
    expected = reference_distribution(logits, options)
    # 4 standard deviations of a share near 1/2 over 4000 draws
    np.testing.assert_allclose(frequencies, expected, atol=4 * 0.5 / 4000**0.5)
    assert frequencies[4] == 0


def test_a_long_vocabulary_is_drawn_from_evenly() -> None:
    """Many more tokens than are added up at once."""
    size, draws = 1000, 4000
    sampler = Sampler(SamplingOptions(temperature=1, min_p=0.0, seed=1), size)
    drawn = np.array([sampler.draw(np.zeros(size, np.float32)) for _ in range(draws)])
    counts = np.bincount(drawn // 100, minlength=10)
    np.testing.assert_allclose(counts / draws, 0.1, atol=4 * 0.3 / draws**0.5)
    assert len(set(drawn.tolist())) > 900


@given(seed=st.integers(0, 2**64 - 1), size=st.integers(1, 700))
def test_a_number_finds_the_share_it_falls_into(seed: int, size: int) -> None:
    random = np.random.default_rng(seed)
    shares = random.random(size).astype(np.float32)
    number = random.random()
    place = _first_beyond(shares, number)
    sums = np.concatenate(([0.0], shares.astype(np.float64).cumsum()))
    slack = 1e-12 * sums[-1]
    assert sums[place] - slack <= number * sums[-1] <= sums[place + 1] + slack


def test_of_equal_shares_top_p_keeps_the_first() -> None:
    logits = np.zeros(10, np.float32)
    tokens, _ = distribution(logits, SamplingOptions(temperature=1, top_p=0.35, min_p=0.0))
    assert tokens.tolist() == [0, 1, 2, 3]


def test_temperature_zero_is_greedy() -> None:
    sampler = Sampler(SamplingOptions(temperature=0, top_k=1), 50)
    logits = np.random.default_rng(0).normal(size=50).astype(np.float32)
    assert sampler.draw(logits) == int(logits.argmax())


def test_a_tiny_temperature_does_not_overflow() -> None:
    options = SamplingOptions(temperature=1e-38)
    assert dense(np.array([80.0, -80.0], np.float32), options).tolist() == [1.0, 0.0]


def test_the_same_seed_draws_the_same_tokens() -> None:
    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingOptions(temperature=1.5, min_p=0, seed=seed), 1000)
        return [sampler.draw(np.zeros(1000, np.float32)) for _ in range(20)]

    assert draws(7) == draws(7)
    assert draws(7) != draws(8)
    assert draws(None) != draws(None)


def test_the_penalty_makes_seen_tokens_less_likely_and_leaves_the_rest() -> None:
    logits = np.array([2.0, -2.0, 1.0, -1.0], np.float32)
    assert penalise(logits, np.array([0, 1]), 2.0).tolist() == [1.0, -4.0, 1.0, -1.0]
    assert logits.tolist() == [2.0, -2.0, 1.0, -1.0], "the caller's logits stay"


def test_the_prompt_and_every_drawn_token_are_penalised() -> None:
    options = SamplingOptions(temperature=0, repetition_penalty=100.0)
    sampler = Sampler(options, 4, seen=[0, 0])
    logits = np.array([4.0, 3.0, 2.0, 1.0], np.float32)
    assert [sampler.draw(logits) for _ in range(4)] == [1, 2, 3, 0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_an_error_and_no_token(temperature: float, value: float) -> None:
    logits = np.array([1.0, value, 0.0], np.float32)
    with pytest.raises(WorkerError, match="not a number"):
        Sampler(SamplingOptions(temperature=temperature), 3).draw(logits)


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
        Sampler(options, 10)
