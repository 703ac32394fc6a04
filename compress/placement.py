"""What fits where: the work on a device, the streams there, in host memory or on disk."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from compress import projection
from compress.quantizers import products
from compress.streams import Placement
from engine import devices
from engine.budget import DeviceKind
from engine.config import ModelConfig
from engine.errors import DoesNotFitError
from engine.manifest import FULL_BITS
from engine.protocol import Device


def choose_placement(
    config: ModelConfig, tokens: int, widths: int, device: Device, head_bits: int = FULL_BITS
) -> Placement:
    """To the device if they fit there beside the work on experts at ``widths`` widths and on a
    head that is rounded too, else to host memory, else to mapped files.

    The result does not depend on it. A device of unknown memory is taken for large enough.
    """
    streams = projection.STREAMS * projection.stream_bytes(tokens, config.hidden_size)
    work = _work(config, widths, device, head_bits)
    if device.kind == "cuda" and device.free_bytes >= streams + work:
        return "device"
    host = devices.cpu_device()
    needed = streams + (work if device.kind == "cpu" else 0)
    return "host" if not host.total_bytes or host.free_bytes >= needed else "disk"


def check_memory(
    config: ModelConfig, widths: int, device: Device, head_bits: int = FULL_BITS
) -> None:
    """Raise DoesNotFitError where not even the work on one expert fits, the streams aside."""
    need = _work(config, widths, device, head_bits)
    other = "another --device" if device.kind == "cpu" else "--device cpu, or another"
    devices.check_fits(device, need, lambda: f"close other programs, or choose {other}")


def _work(config: ModelConfig, widths: int, device: Device, head_bits: int) -> int:
    """On a CPU the packed experts lie beside the work, with a GPU in memory of their own."""
    packed = projection.packed_bytes(config) if device.kind == "cpu" else 0
    element = element_bytes(config, device.kind)
    return projection.work_bytes(config, widths, head_bits, packed, element)


def element_bytes(config: ModelConfig, kind: DeviceKind) -> int:
    """Of a weight of an expert, as it computes on such a device: what an original in bfloat16 has,
    or, where that is slow, float32."""
    is_large = config.hidden_size >= products.SMALLEST_LARGE
    is_fast = is_large and products.has_fast_bfloat16(torch.device(kind))
    return projection.HALF if is_fast else projection.FLOAT32


@contextmanager
def say_when_out_of_memory() -> Iterator[None]:
    """Turn torch's words for it into DoesNotFitError: another program may take what was free."""
    try:
        yield
    except RuntimeError as error:
        is_full = isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)
        if is_full or "can't allocate memory" in str(error):
            raise DoesNotFitError(
                "the device ran out of memory while it compressed: close what else uses it, or "
                "choose another --device or fewer --samples, and run again to go on"
            ) from None
        raise
