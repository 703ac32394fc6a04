"""The real job with one fault in it, named by the first word.

"full-before": the disk has 1000 bytes left. "full-on-the-way": it is full when the last file is
written. "stopped": SIGTERM comes there.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

from compress import job


def full_before() -> None:
    mock.patch("shutil.disk_usage", return_value=mock.Mock(free=1000)).start()


def full_on_the_way() -> None:
    def full(*unused: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    mock.patch("compress.result.write_dense", full).start()


def stopped() -> None:
    from compress import pipeline

    write_rest = pipeline.write_rest

    def stop_and_write(*given: Any, **more: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return write_rest(*given, **more)

    mock.patch("compress.pipeline.write_rest", stop_and_write).start()


FAULTS: dict[str, Callable[[], None]] = {
    "full-before": full_before,
    "full-on-the-way": full_on_the_way,
    "stopped": stopped,
}


if __name__ == "__main__":
    FAULTS[sys.argv[1]]()
    sys.exit(job.main(sys.argv[2:]))
