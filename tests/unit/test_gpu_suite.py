"""The suite for GPUs runs on machines without one, tiny and interpreted, and hides no failure."""

from collections.abc import Iterator

import pytest

pytest.importorskip("triton", reason="no build of triton for this platform")

from benchmarks.gpu_suite import Found, Suite, markdown, run_section


@pytest.mark.parametrize("name", ["drawing", "warming", "dense", "draws", "launches", "layer"])
def test_sections_run_and_find_nothing_wrong(name: str) -> None:
    found = run_section(name, Suite("cpu", dry=True).sections()[name])
    assert found.good, found
    assert found.rows


def test_what_a_section_found_before_it_failed_is_kept() -> None:
    def section() -> Iterator[dict[str, object]]:
        yield {"check": "first", "error": 0.25, "ok": True}
        raise ValueError("broken\nat length")

    found = run_section("half", section)
    assert (found.problem, len(found.rows), found.good) == ("ValueError: broken", 1, False)
    table = markdown("A card", [found])
    assert "## half: FAILED" in table
    assert "| first | 0.25 | True |" in table


def test_a_check_that_does_not_hold_fails_its_section() -> None:
    assert not Found("products", 0.0, [{"check": "x", "ok": False}], "").good
