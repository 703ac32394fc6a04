"""Arrays too large for the memory, in files that are gone with them."""

import errno
import math
import os
import shutil
import sys
import tempfile
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from engine.errors import DiskFullError
from engine.integrity import cache_dir


def scratch_array(shape: tuple[int, ...], dtype: DTypeLike, what: str) -> NDArray[Any]:
    """An array in a file in the cache's folder, without a name: nothing is left behind it.

    ``what`` it holds is for the message of DiskFullError, raised where it does not fit.
    """
    folder, needed = cache_dir(), math.prod(shape) * np.dtype(dtype).itemsize
    folder.mkdir(parents=True, exist_ok=True)
    full = DiskFullError(
        f"{what} takes {needed / 1e9:.1f} GB in {folder}, which has less: make room, or measure on "
        "a shorter --text"
    )
    if needed > shutil.disk_usage(folder).free:
        raise full
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            if sys.platform == "darwin":
                file.truncate(needed)
            else:
                # Writing to a mapped file on a full disk would kill the process.
                os.posix_fallocate(file.fileno(), 0, needed)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise full from None
            raise
        return np.memmap(file, dtype, "r+", shape=shape)  # it outlives the file's handle
