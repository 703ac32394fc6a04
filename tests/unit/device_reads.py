"""Catches what makes the host wait for a device, on machines that have none."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

_READS = {
    aten._local_scalar_dense,  # .item(), int(), float(), bool(), tolist()
    aten.nonzero,
    aten.nonzero_static,
    aten.masked_select,
    aten.unique_consecutive,
    aten.unique_dim,
    aten._unique,
    aten._unique2,
    aten.bincount,
    aten.repeat_interleave,
    aten.equal,
    aten.is_nonzero,
    aten.allclose,
    aten.lift_fresh,  # a tensor of numbers, which is copied from the host
}
_BY_INDEX = {aten.index, aten.index_put, aten.index_put_, aten._unsafe_index}


class NoDeviceReads(TorchDispatchMode):
    """Raises where an operation would read a tensor on the host, shape one by another's values, or
    copy numbers there.

    On a CPU all of that is free, so nothing else tells.
    """

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        packet = function.overloadpacket
        if packet in _READS or (packet in _BY_INDEX and _has_mask(args[1])):
            raise AssertionError(f"{function} makes the host wait for the device")
        return function(*args, **(kwargs or {}))


def _has_mask(indices: Any) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
