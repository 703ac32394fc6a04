"""Ready builds on the hub that this version of mc-chat knows; there may be none.

A build is listed only once it has been published and pulled: a name here is a promise.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from assets import CATALOGUE
from engine.errors import ProtocolError, SourceError
from engine.protocol import from_dict


@dataclass(frozen=True)
class ReadyBuild:
    """A compressed model that can be pulled. ``revision`` is the commit that was tried, ``source``
    the repository of the original; ``nominal_bits`` are the mean code bits of the experts,
    ``bytes`` what is downloaded."""

    title: str
    repository: str
    revision: str
    source: str
    nominal_bits: float
    bytes: int


def ready_builds(source: str | None = None, path: Path = CATALOGUE) -> tuple[ReadyBuild, ...]:
    """The builds of ``source``, None: all; the smallest first. Raises SourceError."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        builds = [from_dict(ReadyBuild, build) for build in raw["builds"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ProtocolError) as error:
        raise SourceError(f"{path} is damaged ({error!r}): install mc-chat again") from None
    wanted = [build for build in builds if source in (None, build.source)]
    return tuple(sorted(wanted, key=lambda build: build.bytes))
