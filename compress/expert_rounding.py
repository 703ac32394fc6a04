"""Rounds the matrices of one expert for the tokens that it gets: to be judged, or for good."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from compress.correction import fit_up
from compress.projection import chunk_of
from compress.quantizers import Quantizer
from compress.quantizers.grid import Codes
from compress.quantizers.hessian import Hessian, HessianSum
from compress.routed import Expert, MoeBlock


def expert_hessian(
    block: MoeBlock, index: int, width: int, chunk: int, inputs: Callable[[Tensor], Tensor]
) -> Hessian:
    """The Hessian of what ``inputs`` [t, width] makes of the normed tokens [t, H] that count for
    an expert."""
    tokens, counts = block.calibration_tokens(index, width)
    roots = counts.sqrt().unsqueeze(1)  # [m, 1]
    total = HessianSum(width, block.hidden.device)
    for part, x in block.inputs(tokens, chunk):
        total.add(inputs(x).mul_(roots[part]))
    return total.mean()


@dataclass(frozen=True)
class ExpertRounding:
    """How the expert ``index`` of a block is rounded. A Hessian is as large as a matrix or larger:
    each is gone before the next one is made."""

    block: MoeBlock
    index: int
    quantize: Quantizer
    group_size: int

    def gate_up(self, expert: Expert, widths: Sequence[int]) -> tuple[tuple[Codes, ...], Tensor]:
        """Codes of gate above up, which share their input, at each width, the rows of up fitted
        where the quantizer says so; and the mean of the Hessian's diagonal, float32 []."""
        codes, trace = self._round(expert.gate_up, expert, self._turn, widths)
        if self.quantize.corrected:
            chunk = chunk_of(expert.down.shape[1])
            codes = fit_up(self.block, self.index, expert, codes, chunk)
        return codes, trace

    def down(self, expert: Expert, widths: Sequence[int]) -> tuple[tuple[Codes, ...], Tensor]:
        """Likewise of down, for what the expert's gate and up, exact or rounded, hand to it."""
        return self._round(expert.down, expert, lambda x: self._turn(expert.inner(x)), widths)

    def _round(
        self,
        weights: Tensor,
        expert: Expert,
        inputs: Callable[[Tensor], Tensor],
        widths: Sequence[int],
    ) -> tuple[tuple[Codes, ...], Tensor]:
        """Codes of weights [O, I] of an expert, whose ``inputs`` are those of `expert_hessian`."""
        chunk = chunk_of(expert.down.shape[1])
        hessian = expert_hessian(self.block, self.index, weights.shape[1], chunk, inputs)
        codes = self.quantize(self._turn(weights.float()), hessian, widths, self.group_size)
        return codes, hessian.diagonal.mean()

    def _turn(self, x: Tensor) -> Tensor:
        return self.quantize.turn(x, self.group_size)
