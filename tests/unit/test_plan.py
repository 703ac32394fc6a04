"""The table of choices."""

from dataclasses import replace
from itertools import pairwise

import pytest

import assets
from compress.plan import Plan, at_contexts, paper_score, plan
from engine.budget import KvBits
from engine.config import MIXTRAL_8X7B, ModelConfig
from engine.errors import UsageError
from engine.protocol import Device

GIB = 2**30


def gpu(free: float) -> Device:
    return Device("Card", "cuda", "cuda:0", 24 * GIB, int(free * GIB))


CPU = Device("Abacus", "cpu", "cpu", 64 * GIB, 20 * GIB)


def test_a_24_gb_card_takes_more_than_three_bits_comfortably() -> None:
    result = plan(MIXTRAL_8X7B, gpu(23.3), 8192)
    assert result.recommended is not None
    assert result.recommended.nominal_bits == 3.25
    up_to_three = [choice for choice in result.choices if choice.nominal_bits <= 3]
    assert [choice.nominal_bits for choice in up_to_three] == [1.5, 1.75, 2, 2.25, 2.5, 2.75, 3]
    assert all(choice.fits and not choice.tight for choice in up_to_three)


@pytest.mark.parametrize(
    ("free", "widest", "recommended"),
    [(21.0, 3.0, 2.75), (23.0, 3.5, 3.25), (48.0, 4.0, 4.0)],
)
def test_more_than_three_bits_are_offered_where_there_is_room(
    free: float, widest: float, recommended: float
) -> None:
    result = plan(MIXTRAL_8X7B, gpu(free), 8192)
    assert result.choices[-1].nominal_bits == widest
    assert all(choice.fits for choice in result.choices if choice.nominal_bits > 3)
    assert result.recommended is not None
    assert result.recommended.nominal_bits == recommended


def test_a_width_that_is_asked_for_is_a_choice_where_it_does_not_fit() -> None:
    device = gpu(20)
    plain, wide = plan(MIXTRAL_8X7B, device), plan(MIXTRAL_8X7B, device, also=3.5)
    assert wide.choices[:-1] == plain.choices
    assert (wide.choices[-1].nominal_bits, wide.choices[-1].fits) == (3.5, False)
    assert wide.recommended == plain.recommended
    assert plan(MIXTRAL_8X7B, device, also=2.5) == plain


def total(bits: float) -> int:
    """Bytes that a width needs in all, at 8192 tokens."""
    choices = plan(MIXTRAL_8X7B, gpu(24), 8192).choices
    return next(choice.total_bytes for choice in choices if choice.nominal_bits == bits)


@pytest.mark.parametrize("bits", [1.5, 2.0, 2.75])
@pytest.mark.parametrize("spare", [-1, 1])
def test_a_tenth_of_the_free_memory_is_left_for_comfort(bits: float, spare: int) -> None:
    free = total(bits) * 10 // 9 + spare
    result = plan(MIXTRAL_8X7B, replace(gpu(24), free_bytes=free), 8192)
    for choice in result.choices:
        assert choice.fits == (choice.total_bytes <= free)
        assert choice.tight == (choice.fits and 10 * choice.total_bytes > 9 * free)
    comfortable = [c.nominal_bits for c in result.choices if c.fits and not c.tight]
    assert (bits in comfortable) == (spare > 0)
    assert result.recommended is not None
    assert result.recommended.nominal_bits == max(comfortable, default=1.5)


def test_a_preferred_width_is_recommended_where_it_fits_and_only_there() -> None:
    assert (
        plan(MIXTRAL_8X7B, gpu(23.3), 8192, 2.5).recommended
        == plan(MIXTRAL_8X7B, gpu(23.3), 8192).choices[4]
    )
    tight = replace(gpu(24), free_bytes=total(2.5))
    result = plan(MIXTRAL_8X7B, tight, 8192, 2.5)
    assert result.recommended == plan(MIXTRAL_8X7B, tight, 8192).recommended
    assert result.recommended is not None
    assert result.recommended.nominal_bits < 2.5


def test_where_only_the_smallest_fits_tightly_it_is_recommended_with_a_word() -> None:
    result = plan(MIXTRAL_8X7B, replace(gpu(24), free_bytes=total(1.5)), 8192)
    assert result.recommended == result.choices[0]
    assert result.recommended.tight
    assert "tightly" in result.reason


def test_where_nothing_fits_nothing_is_recommended_and_the_shortfall_is_named() -> None:
    result = plan(MIXTRAL_8X7B, gpu(8), 8192)
    assert result.recommended is None
    missing = (result.choices[0].total_bytes - 8 * GIB) / 1e9
    assert f"{missing:.1f} GB more" in result.reason
    assert "close other programs" in result.reason
    assert result.alternatives == ()


def test_a_context_that_would_fit_is_the_longest() -> None:
    free = total(1.5) - 300_000_000
    device = replace(gpu(24), free_bytes=free)
    (shorter,) = plan(MIXTRAL_8X7B, device, 8192).alternatives
    assert f"a context of {shorter.context:,} tokens would fit" in plan(MIXTRAL_8X7B, device).reason
    assert shorter.fits
    assert plan(MIXTRAL_8X7B, device, shorter.context).choices[0].fits
    assert not plan(MIXTRAL_8X7B, device, shorter.context + 256).choices[0].fits
    assert shorter.total_bytes == plan(MIXTRAL_8X7B, device, shorter.context).choices[0].total_bytes


@pytest.mark.parametrize("kv_bits", [8, 16])
@pytest.mark.parametrize("device", [gpu(19.5), CPU, Device("Box", "cpu", "cpu", 0, 0)])
def test_one_width_at_several_contexts_is_the_row_of_each_plan(
    device: Device, kv_bits: KvBits
) -> None:
    contexts = (1024, 8192, 32_768)
    rows = [
        next(
            row
            for row in plan(MIXTRAL_8X7B, device, tokens, kv_bits=kv_bits).choices
            if row.nominal_bits == 2.75
        )
        for tokens in contexts
    ]
    assert list(at_contexts(MIXTRAL_8X7B, device, contexts, 2.75, kv_bits=kv_bits)) == rows


def test_the_cpu_is_offered_with_what_it_would_need() -> None:
    card = gpu(8)
    result = plan(MIXTRAL_8X7B, card, 8192, others=(card, CPU))
    (other,) = result.alternatives
    assert other.fits
    assert other.total_bytes == plan(MIXTRAL_8X7B, CPU, 8192).choices[0].total_bytes
    assert f"the CPU could hold it: {other.total_bytes / 1e9:.1f} GB, of 21.5 GB free" in (
        result.reason
    )
    small = replace(CPU, free_bytes=4 * GIB)
    result = plan(MIXTRAL_8X7B, card, 8192, others=(card, small))
    assert not result.alternatives[0].fits
    assert "the CPU could not hold it either" in result.reason
    assert "close other programs" in result.reason


def test_unknown_memory_blocks_nothing_and_is_named() -> None:
    unknown = Device("Box", "cpu", "cpu", 0, 0, "memory unknown")
    result = plan(MIXTRAL_8X7B, unknown, 8192)
    assert all(choice.fits and not choice.tight for choice in result.choices)
    assert len(result.choices) == 7
    assert result.recommended == result.choices[0]
    assert "is unknown" in result.reason


def test_a_device_that_cannot_be_used_fits_nothing() -> None:
    old = replace(gpu(20), problem="too old")
    result = plan(MIXTRAL_8X7B, old, 8192, others=(CPU, old))
    assert not any(choice.fits or choice.tight for choice in result.choices)
    assert result.recommended is None
    assert result.reason.startswith("Card cannot be used: too old; the CPU could hold it")


def test_devices_that_cannot_be_used_are_not_offered() -> None:
    old = Device("Old", "cuda", "cuda:1", 90 * GIB, 90 * GIB, problem="too old")
    assert plan(MIXTRAL_8X7B, gpu(8), 8192, others=(old,)).alternatives == ()


def test_sizes_grow_with_the_bits_and_add_up() -> None:
    choices = plan(MIXTRAL_8X7B, gpu(24), 4096).choices
    for smaller, larger in pairwise(choices):
        assert smaller.nominal_bits < larger.nominal_bits
        assert smaller.weights_bytes < larger.weights_bytes
        assert smaller.kv_bytes == larger.kv_bytes
    for choice in choices:
        assert choice.total_bytes == (
            choice.weights_bytes + choice.kv_bytes + choice.workspace_bytes
        )
    twice = plan(MIXTRAL_8X7B, gpu(24), 8192).choices
    assert twice[0].kv_bytes == 2 * choices[0].kv_bytes


def test_a_cpu_keeps_its_cache_in_float32() -> None:
    on_gpu, on_cpu = (
        plan(MIXTRAL_8X7B, replace(gpu(24), kind=kind), 8192).choices[0] for kind in ("cuda", "cpu")
    )
    assert on_cpu.kv_bytes == 2 * on_gpu.kv_bytes


def test_a_cache_of_8_bits_makes_room() -> None:
    """Where the whole context no longer fits, and in the context that is then advised."""

    def planned(kv_bits: KvBits, context: int) -> Plan:
        return plan(MIXTRAL_8X7B, gpu(14), context, kv_bits=kv_bits)

    half, whole = (planned(bits, 8192).choices[0].kv_bytes for bits in (8, 16))
    assert half == whole // 2 * 130 // 128  # a scale of 2 bytes with 128 codes
    shorter, longer = (planned(bits, 32_768) for bits in (16, 8))
    assert shorter.recommended is None
    assert longer.recommended is not None
    assert shorter.alternatives[0].context < 32_768


def test_the_papers_figures_stand_only_where_it_measured() -> None:
    scores = {
        choice.nominal_bits: choice.paper_score
        for choice in plan(MIXTRAL_8X7B, gpu(24), 8192).choices
    }
    labels = {bits: score.label for bits, score in scores.items() if score}
    assert labels == {1.5: 1.57, 1.75: 1.81, 2.0: 2.05, 2.25: 2.30, 2.5: 2.54, 3.0: 3.0}
    assert scores[2.5] is not None
    assert (scores[2.5].perplexity, scores[2.5].zero_shot) == (5.09, 67.50)
    assert (scores[3.0].perplexity, scores[3.0].zero_shot) == (None, 69.09)
    assert paper_score(MIXTRAL_8X7B, 2.6) is None
    other = replace(MIXTRAL_8X7B, num_layers=56)
    assert paper_score(other, 2.5) is None


def test_the_default_context_stops_at_the_models_training() -> None:
    demo = ModelConfig.from_folder(assets.DEMO_DIR)
    assert plan(MIXTRAL_8X7B, gpu(24)).context == 8192
    assert plan(demo, gpu(24)).context == demo.max_context
    with pytest.raises(UsageError):
        plan(demo, gpu(24), demo.max_context + 1)


def test_smaller_groups_take_more_bytes() -> None:
    usual, fine = plan(MIXTRAL_8X7B, gpu(24)), plan(MIXTRAL_8X7B, gpu(24), group_size=64)
    for coarse, small in zip(usual.choices, fine.choices, strict=False):
        scales = MIXTRAL_8X7B.num_layers * MIXTRAL_8X7B.num_experts
        scales *= MIXTRAL_8X7B.expert_weights // 128
        assert small.weights_bytes - coarse.weights_bytes >= 2 * scales
