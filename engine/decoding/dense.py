"""Whose products multiply the attention's 4-bit matrices on a GPU: ours, or another's if faster.

Each backend gets the same codes, scales and zero points, and is tried with the first layer's
matrices: one token inside a CUDA graph, as decoding runs them, and a chunk of a prompt. It has to
agree with the weights to the precision of its type, and to give the same bytes every time, since
the same seed must give the same text. One that is nowhere slower and somewhere clearly faster takes
the place of ours in all layers, for both: a second copy of the weights, for one of the two, would
cost 0.7 GB of Mixtral 8x7B. What was found is kept for this GPU and these versions.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attention import Attention
from engine.budget import PREFILL_CHUNK
from engine.decoding.graph import capture
from engine.kernels.findings import Findings
from engine.kernels.foreign import Backend
from engine.kernels.triton import decode
from engine.kernels.triton.products import TritonKernels
from engine.kernels.triton.tuning import made_for
from engine.linear import ForeignLinear, Linear, PackedLinear, product_of, with_product
from engine.model import Model
from engine.packing import PackedMatrix, dequantize

OURS = "ours"
WORTH = 1.05
"""Times as fast as ours from which another packing is worth it; less is noise."""

_REPETITIONS = 20
_PRECISION = 4
"""Units in the last place of the type, of the largest output, that a backend may be off."""
_ROUNDS = 15
_WARM_UP = 3

Run = Callable[[], None]
Matrices = tuple[PackedMatrix, PackedMatrix, PackedMatrix, PackedMatrix]
"""Query, key, value and output of one layer."""


@dataclass(frozen=True)
class Verdict:
    """``backend``: whose products are used; ``tried``: of each of the others, what came of it."""

    backend: str = OURS
    tried: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        tried = "; ".join(f"{name}: {words}" for name, words in self.tried.items())
        return f"4-bit products: {self.backend} ({tried})" if tried else "4-bit products: ours"


@dataclass(frozen=True)
class Clock:
    """Seconds of a run, launched, and captured in a graph. Either raises what the run raises."""

    launched: Callable[[Run], float]
    captured: Callable[[Run], float]


def adopt_fastest(
    model: Model, backends: Sequence[Backend], clock: Clock, kept: Findings
) -> Verdict:
    """Give the layers' attention the products that are fastest for it."""
    if any(_packed(layer.attention) is None for layer in model.layers):
        return Verdict()
    first, dtype = _packed(model.layers[0].attention), model.dtype
    assert first is not None
    name = _name(first, dtype)
    verdict = _read(kept.get(name))
    if verdict is None:
        verdict = compare(first, dtype, backends, clock)
        kept.keep(name, asdict(verdict))
    chosen = next((backend for backend in backends if backend.name == verdict.backend), None)
    if chosen is None:
        return replace(verdict, backend=OURS)
    problem = disagreement(chosen, first, dtype)
    if problem is not None:  # although it was good once
        return Verdict(tried={**verdict.tried, chosen.name: problem})
    for layer in model.layers:  # one by one: only a layer's matrices are there twice
        layer.attention = _packed_anew(layer.attention, chosen, dtype)
    return verdict


def compare(
    matrices: Matrices, dtype: torch.dtype, backends: Sequence[Backend], clock: Clock
) -> Verdict:
    """Try every backend with one layer's matrices."""
    own = _Runs.ours(matrices, dtype).seconds(clock)
    tried, gains = {}, {}
    for backend in backends:
        problem = disagreement(backend, matrices, dtype)
        if problem is not None:
            tried[backend.name] = problem
            continue
        try:
            theirs = _Runs.foreign(backend, matrices, dtype).seconds(clock)
        except Exception as error:  # whatever others' packages raise, in a graph above all
            tried[backend.name] = _in_a_line(error)
            continue
        one, many = (mine / other for mine, other in zip(own, theirs, strict=True))
        tried[backend.name] = f"{one:.2f} times as fast for a token, {many:.2f} for a prompt"
        if min(one, many) * WORTH >= 1 and max(one, many) > WORTH:
            gains[backend.name] = one * many
    return Verdict(max(gains, key=lambda name: gains[name], default=OURS), tried)


def disagreement(backend: Backend, matrices: Matrices, dtype: torch.dtype) -> str | None:
    """What is wrong with a backend's products: it is missing, off, or not the same every time."""
    for matrix in matrices:
        shape, device = matrix.shape, matrix.codes.device
        x = torch.randn(2, shape.columns, generator=torch.Generator().manual_seed(0))
        x = x.to(device, dtype)
        exact = F.linear(x.float(), dequantize(matrix))  # [2, O]
        try:
            multiply = backend.pack(matrix, dtype).multiply
            # A token and a few may have kernels of their own.
            for given, expected in ((x[:1], exact[:1]), (x, exact)):
                found = multiply(given).clone()
                off = float((found.float() - expected).abs().max() / expected.abs().max())
                if not off <= _PRECISION * torch.finfo(dtype).eps:
                    return f"off by {off:.1e} of the largest output"
                if not all(torch.equal(multiply(given), found) for _ in range(_REPETITIONS)):
                    return "not the same bytes every time"
        except Exception as error:  # whatever others' packages raise
            return _in_a_line(error)
    return None


@dataclass(frozen=True)
class _Runs:
    """All products of one layer for a token, and for a chunk of a prompt."""

    token: Run
    prompt: Run

    @classmethod
    def ours(cls, matrices: Matrices, dtype: torch.dtype) -> "_Runs":
        """As `engine.decoding.step` and `Attention` launch them."""
        one, many, outs = _activations(matrices, dtype)
        kernels = TritonKernels()

        def token() -> None:
            decode.packed_matvecs(one[0], matrices[:3], outs[:3])
            decode.packed_matvec(one[3], matrices[3], outs[3])

        def prompt() -> None:
            for x, matrix in zip(many, matrices, strict=True):
                kernels.matmul(x, matrix)

        return cls(token, prompt)

    @classmethod
    def foreign(cls, backend: Backend, matrices: Matrices, dtype: torch.dtype) -> "_Runs":
        """Each product by itself."""
        one, many, outs = _activations(matrices, dtype)
        packed = [backend.pack(matrix, dtype) for matrix in matrices]

        def token() -> None:
            for x, matrix, out in zip(one, packed, outs, strict=True):
                out.copy_(matrix.multiply(x))

        def prompt() -> None:
            for x, matrix in zip(many, packed, strict=True):
                matrix.multiply(x)

        return cls(token, prompt)

    def seconds(self, clock: Clock) -> tuple[float, float]:
        """Of a token, captured, and of a prompt."""
        return clock.captured(self.token), clock.launched(self.prompt)


def _activations(
    matrices: Matrices, dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Inputs [1, I] and [T, I] of each matrix, and outputs float32 [1, O] of the first."""
    device = matrices[0].codes.device
    columns = [matrix.shape.columns for matrix in matrices]
    tokens = PREFILL_CHUNK["cuda"]
    one = [torch.ones(1, count, dtype=dtype, device=device) for count in columns]
    many = [torch.ones(tokens, count, dtype=dtype, device=device) for count in columns]
    return one, many, [torch.empty(1, matrix.shape.rows, device=device) for matrix in matrices]


def _packed(attention: Attention) -> Matrices | None:
    """The four matrices, None where they are not all packed at 4 bits."""
    linears = [product_of(linear) for linear in attention.projections]
    held = [linear.matrix for linear in linears if isinstance(linear, PackedLinear)]
    if len(held) < len(linears) or any(matrix.shape.bits != 4 for matrix in held):
        return None
    q, k, v, o = held
    return q, k, v, o


def _packed_anew(attention: Attention, backend: Backend, dtype: torch.dtype) -> Attention:
    def foreign(linear: Linear) -> Linear:
        ours = product_of(linear)
        assert isinstance(ours, PackedLinear)
        return with_product(linear, ForeignLinear(backend.pack(ours.matrix, dtype)))

    return replace(
        attention,
        q=foreign(attention.q),
        k=foreign(attention.k),
        v=foreign(attention.v),
        o=foreign(attention.o),
    )


def _name(matrices: Matrices, dtype: torch.dtype) -> str:
    sizes = (f"{matrix.shape.rows}x{matrix.shape.columns}" for matrix in matrices)
    return f"{' '.join(sizes)} groups of {matrices[0].shape.group_size} {dtype}"


def _read(kept: Any) -> Verdict | None:
    """A verdict of an earlier process; None for what is none."""
    match kept:
        case {"backend": str(backend), "tried": dict(tried)}:
            return Verdict(backend, {str(name): str(words) for name, words in tried.items()})
    return None


def _in_a_line(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return "not installed"
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}"


def dense_findings(device: torch.device) -> Findings:
    """What was found on a GPU with the packages that are here."""
    try:
        gemlite = version("gemlite")
    except PackageNotFoundError:
        gemlite = "absent"
    packages = {"torch": torch.__version__, "gemlite": gemlite}
    return Findings.of("dense", {**made_for(device), **packages})


def remembered(device: torch.device) -> list[str]:
    """In words, what earlier loads have found on a GPU, one line for each shape of a model."""
    found = ((name, _read(kept)) for name, kept in dense_findings(device).all().items())
    return [f"{name}: {verdict}" for name, verdict in found if verdict is not None]


def cuda_clock() -> Clock:
    """Medians on the current GPU, its cache emptied before each run."""
    return Clock(_median, lambda run: _median(_captured(run)))


def _captured(run: Run) -> Run:
    for _ in range(_WARM_UP):
        with torch.inference_mode():
            run()
    return capture(run)


def _median(run: Run) -> float:
    size = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    flood = torch.empty(2 * size, dtype=torch.uint8, device="cuda")
    times = []
    for _ in range(_WARM_UP + _ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        flood.zero_()
        start.record()
        with torch.inference_mode():
            run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return float(statistics.median(times[_WARM_UP:]))
