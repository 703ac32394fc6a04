"""The usual calibration text: the first documents of C4, read from the first megabytes of a shard.

A shard has 356,000 documents in 320 MB of gzip; a calibration takes a few hundred. So only the
beginning is asked for, and of the cut gzip stream what can be decompressed.
"""

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from compress.hub.connection import (
    HUB_ERRORS,
    Patience,
    explained,
    file_url,
    open_stream,
    require_online,
)
from engine.errors import HubError, McChatError, NetworkError

REPOSITORY = "allenai/c4"
FILE = "en/c4-train.00000-of-01024.json.gz"
ORIGIN = f"{REPOSITORY} en"
_SIZES = tuple(mebibytes << 20 for mebibytes in (4, 8, 16, 32, 64))
"""How much of the shard is read: more when that much holds too few documents."""
_GZIP = 16 + zlib.MAX_WBITS


def documents(cache: Path, offline: bool = False) -> Iterator[str]:
    """The first documents of C4 (English, training, shard 0), in their order.

    What is downloaded is kept in ``cache`` and used again. They end where 64 MiB of the shard do.
    Raises NetworkError and HubError, each naming the way out: a text of one's own.
    """
    given = 0
    for size in _SIZES:
        path = cache / f"c4-en-00000-{size}.jsonl"
        if not path.is_file():
            _download(path, size, offline)
        texts = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        yield from texts[given:]
        given = len(texts)


def _download(path: Path, size: int, offline: bool) -> None:
    """Write the whole documents of the first ``size`` bytes of the shard, one JSON text a line."""
    try:
        require_online(offline, f"the calibration text, {ORIGIN},")
        lines = _decompress(_first_bytes(size)).split(b"\n")[:-1]
        try:
            texts = [json.loads(line)["text"] for line in lines]
        except (ValueError, KeyError, TypeError):
            raise HubError(f"{FILE} of {REPOSITORY} is no longer JSON lines of texts") from None
    except McChatError as error:
        raise type(error)(f"{error}; or calibrate on a text of your own with --text FILE") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    # ASCII: splitlines would take some characters of the texts for ends of lines.
    temporary.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="ascii")
    os.replace(temporary, path)


def _first_bytes(size: int) -> bytes:
    url = file_url(REPOSITORY, "dataset", "main", FILE)
    patience = Patience()
    content = bytearray()
    while len(content) < size:
        try:
            with open_stream(url, len(content), size - 1) as response:
                if response.status_code != 206:
                    content.clear()  # the whole shard from its start: stop when there is enough
                for piece in response.iter_bytes():
                    content += piece
                    patience.progress()
                    if len(content) >= size:
                        break
                else:
                    break  # the shard is shorter
        except HUB_ERRORS as error:
            failure = explained(error, REPOSITORY)
            if not isinstance(failure, NetworkError):
                raise failure from None
            patience.wait(failure)
    return bytes(content[:size])


def _decompress(content: bytes) -> bytes:
    """The text of a gzip file, as far as it goes; one file may be several joined ones."""
    text = bytearray()
    try:
        while content:
            member = zlib.decompressobj(_GZIP)
            text += member.decompress(content)
            content = member.unused_data
    except zlib.error as error:
        raise HubError(f"{FILE} of {REPOSITORY} is damaged ({error}): try again later") from None
    return bytes(text)
