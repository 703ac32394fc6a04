"""The group steps on a CPU: compiled loops over rows, spread over threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from compress.quantizers.draft import Draft
from compress.quantizers.kernels import loops
from compress.quantizers.kernels.simd import LANES


class CpuGroups:
    """In float32."""

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
        """See `GroupKernels`."""
        across = couplings.T.contiguous()
        inputs = [tensor.numpy() for tensor in (weights, columns, across, importance)]
        outputs = [tensor.numpy() for tensor in (draft.codes, draft.scale, draft.zero)]
        top, left = np.float32(2**draft.bits - 1), changes.numpy()
        _in_parts(
            len(weights),
            lambda first, last: loops.compensate_rows(
                first, last, *inputs, top, draft.centred, *outputs, group, left
            ),
        )

    def descend(
        self,
        weights: Tensor,
        own: Tensor,
        couplings: Tensor,
        draft: Draft,
        group: int,
        slopes: Tensor,
    ) -> None:
        """See `GroupKernels`."""
        inputs = [tensor.numpy() for tensor in (weights, own, couplings.T.contiguous())]
        outputs = [tensor.numpy() for tensor in (draft.codes, draft.scale, draft.zero)]
        top, left = np.float32(2**draft.bits - 1), slopes.numpy()
        _in_parts(
            len(weights),
            lambda first, last: loops.descend_rows(
                first, last, *inputs, top, draft.centred, *outputs, group, left
            ),
        )


def _in_parts(rows: int, run: Callable[[int, int], None]) -> None:
    """Call run(first, last) for all rows, on as many threads as torch uses.

    Plain threads, as for the engine's kernels: the loops release the GIL.
    """
    parts = torch.get_num_threads()
    if parts == 1:
        run(0, rows)
        return
    bounds = [part * rows // parts // LANES * LANES for part in range(parts)]
    own, *others = pairwise([*bounds, rows])
    running = [_threads().submit(run, *part) for part in others]
    run(*own)
    for other in running:
        other.result()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="rounding")
