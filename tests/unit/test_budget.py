"""What the budget promises is what the engine allocates."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import assets
from engine import budget
from engine.budget import Budget
from engine.cache import KVCache
from engine.checkpoint import load_model
from engine.config import MIXTRAL_8X7B, ModelConfig
from engine.errors import UsageError
from tests.checkpoints_for_tests import EXPERT_BITS, GROUP_SIZE, write_tiny_checkpoint

GB = 10**9


def test_a_loaded_checkpoint_takes_exactly_what_was_promised(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path)
    model = load_model(tmp_path)
    need = budget.compressed_budget(model.config, EXPERT_BITS, GROUP_SIZE, 77, "cpu")
    assert model.memory_bytes() == need.weights
    assert KVCache(model.config, 77, dtype=model.dtype).memory_bytes() == need.kv_cache


def test_the_original_demo_takes_exactly_what_was_promised() -> None:
    model = load_model(assets.DEMO_DIR)
    need = budget.original_budget(model.config, model.config.max_context, "cpu")
    assert model.memory_bytes() == need.weights
    cache = KVCache(model.config, model.config.max_context, dtype=model.dtype)
    assert cache.memory_bytes() == need.kv_cache


@pytest.mark.parametrize(("bits", "gigabytes"), [(2.5, 16.74), (2.0, 13.92)])
def test_mixtral_takes_what_the_method_says(bits: float, gigabytes: float) -> None:
    need = budget.nominal_budget(MIXTRAL_8X7B, bits, 128, 8192, "cuda")
    assert need.weights / GB == pytest.approx(gigabytes, abs=0.005)
    assert need.kv_cache == 2**30  # 8192 tokens x 32 layers x 2 x 8 heads x 128 x 2 bytes


def test_one_bit_experts_store_no_zero_points() -> None:
    """METHOD's 11.10 GB at 1.5 bits counts a zero point for every group; half of them are none."""
    need = budget.nominal_budget(MIXTRAL_8X7B, 1.5, 128, 8192, "cuda")
    saved = MIXTRAL_8X7B.num_layers * 4 * MIXTRAL_8X7B.expert_weights // 128 * 2
    assert (need.weights + saved) / GB == pytest.approx(11.10, abs=0.005)


def test_the_original_mixtral_takes_what_the_method_says() -> None:
    need = budget.original_budget(MIXTRAL_8X7B, 8192, "cuda")
    assert need.weights / GB == pytest.approx(93.4, abs=0.05)


@given(
    nominal=st.floats(1, 4),
    experts=st.integers(1, 16),
)
def test_the_spread_has_the_mean_and_no_cheaper_neighbours(nominal: float, experts: int) -> None:
    widths = budget.spread_bits(nominal, experts)
    assert len(widths) == experts
    assert sum(widths) == round(nominal * experts)
    assert max(widths) - min(widths) <= 1


@given(st.lists(st.integers(1, 4), min_size=8, max_size=8))
def test_a_real_allocation_takes_at_most_what_its_mean_promises(widths: list[int]) -> None:
    promised = budget.spread_bits(sum(widths) / 8, 8)
    real, most = (budget.expert_bytes(MIXTRAL_8X7B, bits, 128) for bits in (widths, promised))
    assert real <= most
    # Half of the experts at 1 bit and half at 4 save the most zero points.
    assert most <= 1.04 * real


def test_fitting_and_comfort() -> None:
    need = Budget(weights=80, kv_cache=8, workspace=2)
    assert need.total == 90
    assert not need.fits(89)
    assert need.fits(90)
    assert need.is_tight(90)
    assert need.is_tight(99)
    assert not need.is_tight(100)
    assert not need.is_tight(89), "what does not fit is not tight"


@pytest.mark.parametrize(
    ("bits", "smaller"), [(4.0, 3.75), (3.25, 3.0), (3.0, 2.75), (2.0, 1.75), (1.5, None)]
)
def test_the_largest_width_that_fits(bits: float, smaller: float | None) -> None:
    def largest(free: int, **more: float) -> float | None:
        return budget.largest_that_fits(MIXTRAL_8X7B, 128, 8192, "cuda", free, **more)

    need = budget.nominal_budget(MIXTRAL_8X7B, bits, 128, 8192, "cuda").total
    assert largest(need) == bits
    assert largest(need - 1) == smaller
    assert largest(need, below=bits) == smaller


@pytest.mark.parametrize("spare", [-1, 0])
def test_the_longest_context_is_found_to_the_step(spare: int) -> None:
    def need(context: int) -> Budget:
        return budget.nominal_budget(MIXTRAL_8X7B, 2.0, 128, context, "cuda")

    for context in (256, 1024, 12_544, 32_768):
        found = budget.longest_context(MIXTRAL_8X7B, need, need(context).total + spare)
        assert found == (context + spare // 1 * 256 or None)


def test_contexts_beyond_the_training_are_refused() -> None:
    demo = ModelConfig.from_folder(assets.DEMO_DIR)
    assert budget.choose_context(demo, None) == demo.max_context
    assert budget.choose_context(MIXTRAL_8X7B, None) == 8192
    assert budget.choose_context(MIXTRAL_8X7B, 32_768) == 32_768
    for context in (0, -1, 32_769):
        with pytest.raises(UsageError, match=f"{context} tokens"):
            budget.choose_context(MIXTRAL_8X7B, context)
