"""Turning the inputs of a product group by group, by a Hadamard matrix.

The weights of a group, turned alike, are all of one size and close to normally distributed,
whatever they were before: an even grid around zero suits them, and one bit says most of what there
is to say (QuIP#, Tseng et al. 2024; here within a group of the stored grid, so that what a kernel
needs for a group stays in the group). The matrix is orthonormal and symmetric, its own inverse.
"""

import math
from functools import cache

import torch
from torch import Tensor


def rotate(x: Tensor, group_size: int) -> Tensor:
    """Turn x [..., I], I a multiple of ``group_size``, a power of two; in its type."""
    signs, rest = _signs(group_size, x.dtype, x.device)
    turned = x.reshape(-1, group_size) @ signs
    return turned.mul_(rest).view_as(x)


@cache
def _signs(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, float]:
    """The matrix divided by a power of two, exact in every type and large enough for no sum to
    overflow where x does not; and what is missing to make it orthonormal."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        upper, lower = torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)
        matrix = torch.cat([upper, lower])
    power = 2.0 ** (size.bit_length() // 2)
    return (matrix / power).to(device, dtype), power / math.sqrt(size)
