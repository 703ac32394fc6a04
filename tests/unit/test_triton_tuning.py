"""Plans of products: tried once, kept for this GPU and these kernels, tried again when in doubt."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="no build of triton for this platform")

from engine.kernels.findings import Findings
from engine.kernels.triton.plans import Plan, Product, Work, plans
from engine.kernels.triton.tuning import Launch, PlanBook, plan_book

WORK = Work("matvec", 4096, 4096, 4, 128)
GPU = {"gpu": "NVIDIA GeForce RTX 3090", "kernels": "abc"}


class Trials:
    """Finds the last plan the fastest, and counts how often it was asked."""

    def __init__(self) -> None:
        self.count = 0

    def fastest(self, launch: Launch, candidates: Sequence[Plan]) -> Plan:
        self.count += 1
        for plan in candidates:
            launch(plan)
        return candidates[-1]


def nothing(plan: Plan) -> None:
    pass


@pytest.fixture
def trials() -> Trials:
    return Trials()


def test_a_product_is_tried_once_and_its_plan_kept(tmp_path: Path, trials: Trials) -> None:
    path = tmp_path / "plans" / "gpu.json"
    launched: list[Plan] = []
    for _ in range(2):
        book = PlanBook(Findings(path, GPU), trials.fastest)
        for _ in range(2):
            assert book.plan(WORK, launched.append) == plans(WORK)[-1]
    assert trials.count == 1
    assert launched == list(plans(WORK))


@pytest.mark.parametrize(
    "spoilt",
    [
        "",
        "[1, 2",
        "[]",
        '{"found": {}}',
        json.dumps({"made_for": {**GPU, "kernels": "older"}, "found": {}}),
        json.dumps({"made_for": GPU, "found": [1]}),
    ],
)
def test_what_is_damaged_or_of_others_is_written_anew(
    tmp_path: Path, trials: Trials, spoilt: str
) -> None:
    path = tmp_path / "gpu.json"
    path.write_text(spoilt)
    for _ in range(2):
        PlanBook(Findings(path, GPU), trials.fastest).plan(WORK, nothing)
    assert trials.count == 1
    assert json.loads(path.read_text())["made_for"] == GPU


@pytest.mark.parametrize("kept", [[1, 4, 64, 7], [0, 0, 0, 0], "fast", None, [1e9] * 4])
def test_a_plan_that_is_none_of_the_choices_is_not_believed(
    tmp_path: Path, trials: Trials, kept: object
) -> None:
    path = tmp_path / "gpu.json"
    book = {"made_for": GPU, "found": {"matvec 4096 4096 4 128 False": kept}}
    path.write_text(json.dumps(book))
    assert PlanBook(Findings(path, GPU), trials.fastest).plan(WORK, nothing) in plans(WORK)
    assert trials.count == 1


def test_a_folder_that_cannot_be_written_costs_another_trial_only(
    tmp_path: Path, trials: Trials
) -> None:
    (tmp_path / "file").write_text("")
    for _ in range(2):
        book = PlanBook(Findings(tmp_path / "file" / "gpu.json", GPU), trials.fastest)
        assert book.plan(WORK, nothing) == plans(WORK)[-1]
    assert trials.count == 2


def test_what_cannot_be_timed_now_is_tried_later(tmp_path: Path, trials: Trials) -> None:
    """While a graph is captured, for one."""
    capturing = [True]
    book = PlanBook(
        Findings(tmp_path / "gpu.json", GPU),
        lambda *given: None if capturing else trials.fastest(*given),
    )
    assert book.plan(WORK, nothing) == plans(WORK)[0]
    capturing.clear()
    assert book.plan(WORK, nothing) == plans(WORK)[-1]


def test_what_is_compiled_ahead_is_neither_timed_nor_chosen(tmp_path: Path, trials: Trials) -> None:
    path = tmp_path / "gpu.json"
    launched: list[Plan] = []
    book = PlanBook(Findings(path, GPU), trials.fastest)
    with book.compiling():
        assert book.plan(WORK, launched.append) in plans(WORK)
    assert launched == list(plans(WORK))
    assert not trials.count
    chosen = book.plan(WORK, nothing)
    launched.clear()
    later = PlanBook(Findings(path, GPU), trials.fastest)
    with later.compiling():
        assert later.plan(WORK, launched.append) == chosen
    assert launched == [chosen], "no other one will be used"


def test_a_cpu_takes_the_first_plan_and_times_nothing() -> None:
    launched: list[Plan] = []
    assert plan_book(torch.device("cpu")).plan(WORK, launched.append) == plans(WORK)[0]
    assert not launched


def test_splits_share_the_inputs_evenly() -> None:
    """14,336 inputs are 28 times 16 lanes of 32, which eight splits would not share evenly."""
    splits = {plan.splits for plan in plans(Work("down", 4096, 14_336, 3, 128))}
    assert splits == {7, 14, 28}


@pytest.mark.parametrize("product", ["matvec", "gate_up", "down"])
@pytest.mark.parametrize(
    ("rows", "columns", "group"), [(14_336, 4096, 128), (4096, 14_336, 64), (32, 32, 32)]
)
def test_plans_are_ones_that_kernels_can_run(
    product: Product, rows: int, columns: int, group: int
) -> None:
    found = plans(Work(product, rows, columns, 3, group))
    assert len(set(found)) == len(found) >= 1
    for plan in found:
        assert group % plan.stretch == 0
        assert plan.splits == 1 or plan.splits * plan.lanes * plan.stretch <= columns
        for number in (plan.lines, plan.warps):
            assert number & (number - 1) == 0
        if product == "gate_up":
            assert plan.splits == 1
            assert plan.lines % 2 == 0
