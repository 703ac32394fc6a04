"""The demo with its experts in any code, as a float model: an upper bound on what a code brings.

As `compress.layers` goes, layer after layer on the stream past the rounded ones, experts rotated,
rows of up fitted; attention and all else stay as they are, for every code alike.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from assets import DEMO_DIR
from benchmarks.codes_rounding import Rounder, relative_error
from compress.calibration import CalibrationSize, demo_windows
from compress.correction import fit_up
from compress.expert_rounding import expert_hessian
from compress.projection import chunk_of
from compress.quantizers.hessian import Hessian
from compress.quantizers.refine import quantize_refined
from compress.routed import MoeBlock, expert_of
from compress.streams import StreamStore, attend
from engine.experts import FloatExperts
from engine.hadamard import rotate
from engine.model import Model
from engine.original import load_original

GROUP = 128
CPU = torch.device("cpu")

Round = Callable[[Tensor, Hessian], Tensor]
"""Turned weights [O, I] and the Hessian of their turned inputs to what the codes stand for."""


@dataclass(frozen=True)
class Values:
    """What `compress.correction` asks of codes, for weights [O, I] that have none."""

    weights: Tensor

    def dequantize(self) -> Tensor:
        """The weights, for inputs that are not turned."""
        return self.weights

    def scaled(self, factors: Tensor) -> "Values":
        """With its rows multiplied by factors [O]."""
        return Values(self.weights * factors.unsqueeze(1))


def integers(bits: int) -> Round:
    """The program's own codes, its sweeps included."""

    def rounded(weights: Tensor, hessian: Hessian) -> Tensor:
        (codes,) = quantize_refined(weights, hessian, (bits,), GROUP, rotated=True)
        return rotate(codes.dequantize(), GROUP)

    return rounded


def coded(rounder: Rounder) -> Round:
    """Any other code."""

    def rounded(weights: Tensor, hessian: Hessian) -> Tensor:
        return torch.from_numpy(
            rounder.matrix(weights.contiguous().numpy(), hessian.matrix.numpy(), GROUP)
        )

    return rounded


@dataclass(frozen=True)
class Matrix:
    """Gate above up, or down, turned; with the Hessian of its turned inputs."""

    name: str
    weights: Tensor
    hessian: Hessian

    def thinned(self, step: int) -> "Matrix":
        """Every so many rows: rows are rounded each by itself."""
        return replace(self, weights=self.weights[::step].contiguous())

    def error(self, rounded: Round) -> float:
        """tr(E H E^T) / tr(W H W^T)."""
        values = rounded(self.weights, self.hessian)
        arrays = (self.weights, values, self.hessian.matrix)
        return relative_error(*(array.double().numpy() for array in arrays))  # type: ignore[arg-type]


def demo_matrices(samples: int, experts: int) -> Iterator[Matrix]:
    """Those of the first ``experts`` experts of every second layer, behind exact layers."""

    def turn(x: Tensor) -> Tensor:
        return rotate(x, GROUP)

    for layer, block in _blocks(load_original(DEMO_DIR, CPU), samples):
        if layer % 2 == 0:
            floats = block.layer.experts
            assert isinstance(floats, FloatExperts)
            for index in range(experts):
                expert = expert_of(floats, index)
                hidden, inner = expert.gate_up.shape[1], expert.down.shape[1]
                chunk = chunk_of(inner)
                hessian = expert_hessian(block, index, hidden, chunk, turn)
                yield Matrix("gate and up", turn(expert.gate_up), hessian)
                hessian = expert_hessian(
                    block, index, inner, chunk, lambda x, expert=expert: turn(expert.inner(x))
                )
                yield Matrix("down", turn(expert.down), hessian)


@torch.inference_mode()
def rounded_demo(rounded: Round, samples: int) -> Model:
    """The demo with all of its experts rounded."""

    def turn(x: Tensor) -> Tensor:
        return rotate(x, GROUP)

    model = load_original(DEMO_DIR, CPU)
    for _, block in _blocks(model, samples):
        floats = block.layer.experts
        assert isinstance(floats, FloatExperts)
        for index in range(len(floats.expert_bytes())):
            expert = expert_of(floats, index)
            hidden, inner = expert.gate_up.shape[1], expert.down.shape[1]
            chunk = chunk_of(inner)
            hessian = expert_hessian(block, index, hidden, chunk, turn)
            values = Values(turn(rounded(turn(expert.gate_up), hessian)))
            (values,) = fit_up(block, index, expert, (values,), chunk)  # type: ignore[arg-type, assignment]
            trial = expert.replaced(gate_up=values.dequantize())
            hessian = expert_hessian(
                block, index, inner, chunk, lambda x, trial=trial: turn(trial.inner(x))
            )
            down = turn(rounded(turn(expert.down), hessian))
            gate, up = values.dequantize().chunk(2)
            # The exact experts lie in these tensors; this one is done.
            for place, matrix in zip(floats.tensors(), (gate, up, down), strict=True):
                place[index] = matrix
    return model


def _blocks(model: Model, samples: int) -> Iterator[tuple[int, MoeBlock]]:
    """Each layer's block on the stream past the layers before it, as they then are."""
    window = model.config.max_context
    tokens = demo_windows("train", CalibrationSize(samples, min(window, 512)), 0)
    rope = model.rope.at(0, tokens.shape[1])
    with tempfile.TemporaryDirectory() as folder:
        shape = (*tokens.shape, model.config.hidden_size)
        store = StreamStore(Path(folder), "codes", shape, "host", CPU)
        stream = store.begin(tokens, model.embed)
        for layer in model.layers:
            hidden = store.after(stream, layer.index + 1)
            attend(layer, stream, hidden, rope)
            yield layer.index, MoeBlock.of(layer, hidden)
            for part in hidden.parts():
                h = hidden.read(part)
                normed = layer.moe_input(h)
                hidden.write(part, h + layer.mix(normed, layer.route(normed)).view_as(h))
            stream = hidden
