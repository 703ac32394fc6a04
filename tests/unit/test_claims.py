"""What the README claims is what the files in benchmarks/results say, figure for figure."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = re.compile(r"`python -m (benchmarks\.\w+)`")
RESULT = re.compile(r"\((benchmarks/results/\w+\.md)\)")
FIGURE = re.compile(r"\d[\d,]*(?:\.\d+)?")


def table(document: Path, heading: str) -> list[list[str]]:
    """The cells of the first table behind a heading, without its head."""
    lines = document.read_text().split(f"\n{heading}\n")[1].splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


CLAIMS = table(ROOT / "README.md", "## What is claimed, and what prints it")


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim[0])
def test_a_claim_is_printed_by_a_command_and_its_figures_are_kept(claim: list[str]) -> None:
    _, figures, source = claim
    for module in COMMAND.findall(source):
        assert find_spec(module), f"there is no {module}"
    kept = (ROOT / RESULT.findall(source)[0]).read_text().replace(",", "")
    kept_figures = set(FIGURE.findall(kept))
    said = [figure.replace(",", "") for figure in FIGURE.findall(figures)]
    assert said, "a claim without a figure"
    assert set(said) <= kept_figures, f"not in {RESULT.findall(source)[0]}"


def test_the_table_of_quality_is_that_of_the_benchmark() -> None:
    quality = (ROOT / "benchmarks/results/quality.md").read_text().splitlines()
    measured = [{cell.strip() for cell in line.split("|")} for line in quality]
    rows = table(ROOT / "README.md", "## Quality on the demo")
    assert rows
    for row in rows:
        cells = {cell.strip("*") for cell in row}
        assert any(cells <= known for known in measured), row
