"""4-bit products of others: the comparison, what is believed of it, and what a model then runs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="no build of triton for this platform")

from app.commands import doctor
from benchmarks import dense_backends
from benchmarks.dense_backends import Ours, random_matrix, table
from engine.architectures.architecture import Traits
from engine.cache import KVCache
from engine.decoding import dense
from engine.decoding.dense import OURS, Clock, Run, Verdict, adopt_fastest, compare, disagreement
from engine.decoding.plain import PlainOperations
from engine.decoding.state import DecodeState
from engine.decoding.step import DecodeStep
from engine.kernels.findings import Findings
from engine.kernels.foreign import Backend, ForeignMatrix, Int4Mm
from engine.linear import ForeignLinear, PackedLinear, product_of
from engine.packing import PackedMatrix, dequantize
from engine.protocol import Device
from tests.unit.packed_models_for_tests import Shape, random_model

MATRIX = random_matrix(32, 128, "cpu")
our_runs = dense._Runs.ours
LAYER = (MATRIX, MATRIX, MATRIX, MATRIX)
F32 = torch.float32


def nothing() -> float:
    return 0.0


@dataclass(frozen=True)
class Fake:
    """Multiplies in float32 and adds what ``off`` says; ``seconds`` go by at each product."""

    name: str = "fake"
    off: Callable[[], float] = nothing
    seconds: Callable[[int], float] = lambda tokens: 1.0

    def pack(self, matrix: PackedMatrix, dtype: torch.dtype) -> ForeignMatrix:
        weight = dequantize(matrix).to(dtype)

        def multiply(x: Tensor) -> Tensor:
            elapsed.append(self.seconds(len(x)))
            return x @ weight.T + self.off()

        return ForeignMatrix(*weight.shape, multiply, (weight,))


@dataclass(frozen=True)
class Missing:
    name: str = "missing"

    def pack(self, matrix: PackedMatrix, dtype: torch.dtype) -> ForeignMatrix:
        raise ModuleNotFoundError("No module named 'missing'")


elapsed: list[float] = []
"""What the products of fakes say they took."""


def clocked(run: Run) -> float:
    """The sum of the fakes' seconds; 4, one a product, for runs without any: ours."""
    elapsed.clear()
    run()
    return sum(elapsed) or 4.0


CLOCK = Clock(clocked, clocked)


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The products of ours are fakes, too: interpreted, a chunk takes seconds."""
    monkeypatch.setattr(dense._Runs, "ours", lambda *given: dense._Runs(lambda: None, lambda: None))
    monkeypatch.setattr(dense, "PREFILL_CHUNK", {"cuda": 3})


def test_a_backend_that_is_missing_is_named_and_the_others_are_tried() -> None:
    verdict = compare(LAYER, F32, [Missing(), Fake(seconds=lambda tokens: 0.5)], CLOCK)
    assert verdict.backend == "fake"
    assert verdict.tried == {
        "missing": "not installed",
        "fake": "2.00 times as fast for a token, 2.00 for a prompt",
    }
    assert str(verdict).startswith("4-bit products: fake (missing: not installed; fake: 2.00")


@pytest.mark.parametrize(
    ("token", "prompt", "chosen"),
    [
        (0.9, 1.0, "fake"),
        (1.0, 0.5, "fake"),
        (0.97, 0.97, OURS),  # not worth it
        (0.5, 1.2, OURS),  # slower for prompts
        (1.2, 0.1, OURS),  # slower for a token
        (1.0, 1.0, OURS),
    ],
)
def test_one_is_chosen_that_is_nowhere_slower_and_somewhere_faster(
    token: float, prompt: float, chosen: str
) -> None:
    fake = Fake(seconds=lambda tokens: token if tokens == 1 else prompt)
    assert compare(LAYER, F32, [fake], CLOCK).backend == chosen


def test_the_fastest_of_several_is_chosen() -> None:
    backends = [Fake(str(time), seconds=lambda _, t=time: t) for time in (0.8, 0.4, 0.6)]  # type: ignore[misc]
    assert compare(LAYER, F32, backends, CLOCK).backend == "0.4"


def restless() -> Callable[[], float]:
    steps = iter(range(10**6))
    return lambda: 1e-7 * next(steps)


@pytest.mark.parametrize(
    ("off", "words"),
    [
        (lambda: 1.0, "of the largest output"),
        (lambda: float("nan"), "of the largest output"),
        (restless(), "not the same bytes every time"),
    ],
)
def test_what_is_wrong_or_changes_is_not_believed_however_fast(
    off: Callable[[], float], words: str
) -> None:
    verdict = compare(LAYER, F32, [Fake(off=off, seconds=lambda _: 0.1)], CLOCK)
    assert verdict.backend == OURS
    assert words in verdict.tried["fake"]


def test_one_that_breaks_a_graph_falls_away() -> None:
    def captured(run: Run) -> float:
        if clocked(run) != 4.0:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        return 4.0

    verdict = compare(LAYER, F32, [Fake(seconds=lambda _: 0.1)], Clock(clocked, captured))
    assert verdict.backend == OURS
    assert verdict.tried["fake"] == (
        "RuntimeError: operation not permitted when stream is capturing"
    )


@pytest.mark.parametrize(
    "shape",
    [Shape(), Shape(traits=Traits(norms="head", qkv_bias=True, shared_size=64))],
    ids=["as Mixtral", "with norms, biases and a shared expert"],
)
def test_a_model_takes_the_fastest_and_does_what_it_did(tmp_path: Path, shape: Shape) -> None:
    fast = Fake(seconds=lambda _: 0.5)
    kept = Findings(tmp_path / "found.json", {})
    ours, theirs = random_model(shape), random_model(shape)
    bytes_before = theirs.memory_bytes()
    verdict = adopt_fastest(theirs, [fast], CLOCK, kept)
    assert verdict.backend == "fake"
    layers = [layer.attention for layer in theirs.layers]
    assert all(isinstance(product_of(part.k), ForeignLinear) for part in layers)
    assert theirs.memory_bytes() > bytes_before, "what it holds is counted: here, float32"
    tokens = torch.tensor([[1, 2, 3, 4]])
    torch.testing.assert_close(theirs.forward(tokens), ours.forward(tokens), atol=1e-4, rtol=1e-4)
    states = []
    for model in (ours, theirs):
        state, cache = DecodeState.allocate(model), KVCache(model.config, 4)
        step = DecodeStep(model, cache, state, PlainOperations())
        for _ in range(3):
            step.run()
        states.append(state)
    assert torch.equal(states[0].ring, states[1].ring)
    logits = [state.activations.logits for state in states]
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)


def test_what_was_found_is_kept_and_checked_again(tmp_path: Path) -> None:
    def never(run: Run) -> float:
        raise AssertionError("timed again")

    path = tmp_path / "found.json"
    fast = Fake(seconds=lambda _: 0.5)
    first = adopt_fastest(random_model(Shape()), [fast], CLOCK, Findings(path, {}))
    again = random_model(Shape())
    assert adopt_fastest(again, [fast], Clock(never, never), Findings(path, {})) == first
    assert isinstance(again.layers[0].attention.q, ForeignLinear)
    # Not there any more, or wrong now: ours, and why.
    for spoilt, words in ((Missing("fake"), "not installed"), (Fake(off=lambda: 1.0), "off by")):
        model = random_model(Shape())
        verdict = adopt_fastest(model, [spoilt], Clock(never, never), Findings(path, {}))
        assert verdict.backend == OURS
        assert words in verdict.tried["fake"]
        assert isinstance(model.layers[0].attention.q, PackedLinear)
    # Another version of anything: measured anew.
    with pytest.raises(AssertionError, match="timed again"):
        adopt_fastest(model, [fast], Clock(never, never), Findings(path, {"torch": "3"}))


@pytest.mark.parametrize("kept", [None, [], {"backend": 1, "tried": {}}, {"backend": "fake"}])
def test_what_is_damaged_is_measured_anew(tmp_path: Path, kept: object) -> None:
    model = random_model(Shape())
    path = tmp_path / "found.json"
    adopt_fastest(model, [], CLOCK, Findings(path, {}))
    (name,) = Findings(path, {}).all()
    Findings(path, {}).keep(name, kept)
    fast = Fake(seconds=lambda _: 0.5)
    assert adopt_fastest(random_model(Shape()), [fast], CLOCK, Findings(path, {})).backend == "fake"


def test_the_report_says_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Findings(tmp_path / "found.json", {})
    adopt_fastest(random_model(Shape()), [Missing()], CLOCK, kept)
    kept.keep("another", "damaged")
    monkeypatch.setattr(dense, "dense_findings", lambda device: kept)
    (line,) = doctor._dense(Device("Card", "cuda", "cuda:0", 8, 8))
    assert line.endswith("torch.float32: 4-bit products: ours (missing: not installed)")


def test_our_own_products_run_as_they_are_timed() -> None:
    runs = our_runs(LAYER, torch.float16)
    runs.token()
    runs.prompt()


def test_attention_that_is_not_packed_stays_as_it_is(tmp_path: Path) -> None:
    model = random_model(Shape())
    attention = model.layers[0].attention
    model.layers[0].attention = dense.replace(attention, q=model.head)
    found = adopt_fastest(model, [Fake()], CLOCK, Findings(tmp_path / "found.json", {}))
    assert found == Verdict()
    assert str(found) == "4-bit products: ours"


def test_the_benchmark_names_what_is_missing_and_sees_what_is_wrong() -> None:
    def instantly(call: Callable[[], Tensor]) -> float:
        call()
        return 1.5

    def rows(*backends: Backend) -> Iterator[dense_backends.Row]:
        yield from dense_backends.compare(backends, MATRIX, instantly, F32)

    lost, exact, wrong, changing = rows(
        Missing(), Fake(), Fake(off=lambda: 1.0), Fake(off=restless())
    )
    assert lost.problem == "ModuleNotFoundError: No module named 'missing'"
    assert (exact.microseconds, exact.same_bytes) == (1.5, True)
    assert exact.error is not None
    assert exact.error < 1e-6
    assert wrong.error is not None
    assert wrong.error > 0.01
    assert not changing.same_bytes
    assert "| missing | 32 x 128 | ModuleNotFoundError" in table([lost, exact])


def test_our_own_is_right_to_half_precision() -> None:
    (row,) = dense_backends.compare([Ours()], MATRIX, lambda call: 1.0, torch.float16, 2)
    assert row.problem == ""
    assert row.error is not None
    assert row.error < 1e-3
    assert row.same_bytes


def test_torchs_own_is_asked_for_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its packing and product are CUDA's; stand-ins show what it is given."""
    seen: dict[str, Tensor] = {}

    def product(x: Tensor, packed: Tensor, group_size: int, parameters: Tensor) -> Tensor:
        codes = torch.stack([packed >> 4, packed & 15], dim=-1).flatten(1).float()
        scale, zero = parameters.float().unbind(-1)  # [G, O]
        seen["weights"] = (codes - 8) * scale.T.repeat_interleave(
            group_size, 1
        ) + zero.T.repeat_interleave(group_size, 1)
        return x @ seen["weights"].to(x.dtype).T

    monkeypatch.setattr(
        torch.ops.aten, "_convert_weight_to_int4pack", lambda codes, tiles: codes, raising=False
    )
    monkeypatch.setattr(torch.ops.aten, "_weight_int4pack_mm", product, raising=False)
    assert disagreement(Int4Mm(), LAYER, torch.bfloat16) is None
    exact = dequantize(MATRIX)
    assert (seen["weights"] - exact).abs().max() < 0.01 * exact.abs().max()
    assert disagreement(Int4Mm(), LAYER, torch.float16) == (
        "UsageError: it knows no other type than bfloat16"
    )
