"""Where the calibration streams go: device, host memory or disk, by what is free."""

from compress import projection
from compress.streams import Placement
from engine import devices
from engine.config import ModelConfig
from engine.protocol import Device


def choose_placement(config: ModelConfig, tokens: int, widths: int, device: Device) -> Placement:
    """To the device if they fit there beside the work on experts at ``widths`` widths, else to
    host memory, else to mapped files.

    The result does not depend on it. A device of unknown memory is taken for large enough.
    """
    streams = projection.STREAMS * projection.stream_bytes(tokens, config.hidden_size)
    work = projection.work_bytes(config, widths)
    if device.kind == "cuda" and device.free_bytes >= streams + work:
        return "device"
    host = devices.cpu_device()
    needed = streams + (work if device.kind == "cpu" else 0)
    return "host" if not host.total_bytes or host.free_bytes >= needed else "disk"
