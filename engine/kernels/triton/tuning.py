"""Chooses a plan for each product by trying the few there are, once for every kind of GPU.

A product is tried at its first call, which is before a graph is captured; what was found is kept
on disk for this GPU, these versions and these kernels. Elsewhere, in the interpreter above all,
nothing is timed and the first plan is taken.
"""

import hashlib
import logging
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from functools import cache
from pathlib import Path

import torch
import triton

from engine.kernels.findings import Findings
from engine.kernels.triton.plans import Plan, Work, plans

_log = logging.getLogger(__name__)

_ROUNDS = 7
_KERNELS = ("words.py", "decode_kernels.py", "plans.py", "rotation.py")
"""What a finding depends on, beside this file."""

Launch = Callable[[Plan], None]
Fastest = Callable[[Launch, Sequence[Plan]], Plan | None]


class PlanBook:
    """The plans of one device. ``kept``: those of earlier processes, None where nothing is timed;
    ``fastest`` tries plans, or says None if it cannot now."""

    def __init__(self, kept: Findings | None, fastest: Fastest) -> None:
        self._kept = kept
        self._fastest = fastest
        self._chosen: dict[Work, Plan] = {}
        self._compiling = False

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Meanwhile every plan that may be chosen is launched, so compiled, and none is chosen."""
        self._compiling = True
        try:
            yield
        finally:
            self._compiling = False

    def plan(self, work: Work, launch: Launch) -> Plan:
        """The plan for ``work``; ``launch`` does it, and may be called again and again."""
        chosen = self._chosen.get(work)
        if chosen is not None:
            return chosen
        candidates = plans(work)
        if self._compiling:
            return self._compiled(work, launch, candidates)
        if self._kept is None or len(candidates) == 1:
            chosen = candidates[0]
        else:
            chosen = self._known_or_fastest(self._kept, work, launch, candidates)
            if chosen is None:
                return candidates[0]
        self._chosen[work] = chosen
        return chosen

    def _known_or_fastest(
        self, kept: Findings, work: Work, launch: Launch, candidates: Sequence[Plan]
    ) -> Plan | None:
        known = _known(kept, work, candidates)
        if known is not None:
            return known
        found = self._fastest(launch, candidates)
        if found is not None:
            kept.keep(_name(work), list(astuple(found)))
        return found

    def _compiled(self, work: Work, launch: Launch, candidates: Sequence[Plan]) -> Plan:
        """Any plan, after all that may be chosen were launched."""
        if self._kept is None:
            return candidates[0]
        known = _known(self._kept, work, candidates)
        for plan in candidates if known is None else [known]:
            launch(plan)
        return known or candidates[0]


def _name(work: Work) -> str:
    return " ".join(str(part) for part in astuple(work))


def _known(kept: Findings, work: Work, candidates: Sequence[Plan]) -> Plan | None:
    """The plan that an earlier process chose, if it still is one."""
    found = kept.get(_name(work))
    return next((plan for plan in candidates if list(astuple(plan)) == found), None)


@cache
def plan_book(device: torch.device) -> PlanBook:
    """The plans of a device."""
    if device.type != "cuda":
        return PlanBook(None, _fastest)
    return PlanBook(Findings.of("plans", made_for(device)), _fastest)


def made_for(device: torch.device) -> dict[str, str]:
    """What a measurement of these kernels on a GPU holds for."""
    return {
        "gpu": torch.cuda.get_device_name(device),
        "cuda": str(torch.version.cuda),
        "triton": triton.__version__,
        "kernels": _source_hash(),
    }


def _fastest(launch: Launch, candidates: Sequence[Plan]) -> Plan | None:
    """The plan with the smallest median time, the cache emptied before each launch.

    None while a graph is captured, when nothing can be timed.
    """
    if torch.cuda.is_current_stream_capturing():
        return None
    size = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    flood = torch.empty(2 * size, dtype=torch.uint8, device="cuda")
    for plan in candidates:
        launch(plan)  # compiles
    times: dict[Plan, list[float]] = {plan: [] for plan in candidates}
    for _ in range(_ROUNDS):
        for plan in candidates:
            start, end = _event(), _event()
            flood.zero_()
            start.record()
            launch(plan)
            end.record()
            end.synchronize()
            times[plan].append(start.elapsed_time(end))
    medians = {plan: statistics.median(found) for plan, found in times.items()}
    best = min(candidates, key=lambda plan: medians[plan])
    _log.info("%s takes %.4f ms, the slowest %.4f", best, medians[best], max(medians.values()))
    return best


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _source_hash() -> str:
    folder = Path(__file__).parent
    text = b"".join((folder / name).read_bytes() for name in _KERNELS)
    return hashlib.sha256(text).hexdigest()[:16]
