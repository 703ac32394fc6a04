"""Philox against NumPy's integers and published vectors, and its statistics."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.random_numbers import STEP, key_of, uniform, uniform_on_device


def test_words_are_those_of_the_authors_test_vectors() -> None:
    """Random123's known answers for philox4x32-10 begin with this one: counter and key zero."""
    assert uniform((0, 0), 0) == (0x6627E8D5 >> 8) * STEP


@given(seed=st.integers(-(2**63), 2**64 - 1), index=st.integers(0, 2**31))
def test_host_and_device_agree(seed: int, index: int) -> None:
    key = key_of(seed)
    device = uniform_on_device(torch.tensor(key), torch.tensor([index]))
    assert device.dtype == torch.float32
    assert device.item() == uniform(key, index)


def test_numbers_are_even_and_differ_from_index_to_index_and_seed_to_seed() -> None:
    numbers = np.array([uniform(key_of(3), index) for index in range(4000)])
    assert 0 <= numbers.min() < 0.01 < 0.99 < numbers.max() < 1
    # The mean of n even numbers has a deviation of 1 / sqrt(12 n); neighbours do not correlate.
    assert abs(numbers.mean() - 0.5) < 4 / (12 * 4000) ** 0.5
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 4 / 4000**0.5
    assert uniform(key_of(4), 0) != uniform(key_of(3), 0) != uniform(key_of(3 + 2**32), 0)


def test_no_seed_is_another_one_each_time() -> None:
    assert key_of(None) != key_of(None)
