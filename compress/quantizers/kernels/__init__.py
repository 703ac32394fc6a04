"""Rounding one group of inputs of many rows: what is not a large product runs in here.

`reference` is plain torch in any precision on any device, `cpu` compiled loops for float32 on a
CPU, `triton` for CUDA. They agree.
"""

from typing import Protocol

import torch
from torch import Tensor

from compress.quantizers.draft import Draft


class GroupKernels(Protocol):
    """The two steps on one group, [R] rows and g inputs, at one width."""

    def compensate(
        self,
        weights: Tensor,
        columns: Tensor,
        couplings: Tensor,
        importance: Tensor,
        draft: Draft,
        group: int,
        changes: Tensor,
    ) -> None:
        """Fit a grid to the targets of ``columns`` [g] and round these one after the other.

        weights [R, I]; ``changes`` [R, g] holds what earlier groups add to the targets of
        ``columns``, and then their errors W - Q. couplings [g, g], strictly upper: once input i
        has become v, the target of each later j falls by (v - target of i) * C_ij. importance [g]
        weighs the grid's errors. Codes, scale and zero go to the draft's ``columns`` and ``group``.
        """
        ...

    def descend(
        self,
        weights: Tensor,
        own: Tensor,
        couplings: Tensor,
        draft: Draft,
        group: int,
        slopes: Tensor,
    ) -> None:
        """Refit the draft's grid of a group to its codes, then move each of the codes.

        ``slopes`` [R, g] holds G = (W - Q) H of the group's inputs, and then the errors W - Q.
        own [g, g] is the damped H of the group, ``couplings`` H_ij / H_jj strictly above its
        diagonal.
        """
        ...


def kernels_for(weights: Tensor) -> GroupKernels:
    """The fastest kernels for weights like these."""
    # Imported when needed: numba takes a while, and triton is not there without a GPU.
    if weights.dtype == torch.float32 and weights.device.type == "cpu":
        from compress.quantizers.kernels.cpu import CpuGroups

        return CpuGroups()
    from compress.quantizers.kernels.reference import TorchGroups

    if weights.dtype == torch.float32 and weights.device.type == "cuda":
        from compress.quantizers.kernels.triton import sweep

        return TorchGroups(sweep)
    return TorchGroups()
