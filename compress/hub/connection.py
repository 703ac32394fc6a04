"""How the hub is spoken to: through huggingface_hub's own session, token and endpoint.

Here its failures become one line that says what to do, and a lost network is waited for, but not
for long: half a minute without a byte ends a try, and what has arrived is kept.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from huggingface_hub import constants, hf_hub_url, is_offline_mode
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # its lazy exports
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from engine.errors import HubError, McChatError, NetworkError

# Else every request names torch's version, and the first asks the hub which agents it knows.
constants.HF_HUB_DISABLE_TELEMETRY = True

RepositoryKind = Literal["model", "dataset"]

# huggingface_hub 1 speaks through httpx, 2 through httpx2; the parent of its own error is theirs.
_TransportError: Any = HfHubHTTPError.__bases__[0]
HUB_ERRORS: tuple[type[Exception], ...] = (
    _TransportError,
    OfflineModeIsEnabled,
    EntryNotFoundError,
    HFValidationError,
)
"""Everything that speaking to the hub can raise."""

TIMEOUT = (5.0, 10.0, 10.0, 5.0)
"""Seconds to connect, to receive something, to send something, to get a connection."""
_LATER = {408, 425, 429, 500, 502, 503, 504}
"""Answers that mean: ask again later."""
_AGAIN = "run the same command again to go on"


class Patience:
    """Waits between tries, longer each time, until too long has passed without a byte.

    ``tell`` hears one line when a wait begins; ``check`` is called during waits, ten times a
    second, and may raise Interrupted.
    """

    limit = 25.0
    first_delay = 1.0

    def __init__(
        self, tell: Callable[[str], None] | None = None, check: Callable[[], None] | None = None
    ) -> None:
        self._tell = tell
        self._check = check
        self.progress()

    def progress(self) -> None:
        """Something has arrived: the next failure is a first one again."""
        self._since = time.monotonic()
        self._delay = self.first_delay

    def wait(self, error: NetworkError) -> None:
        """Wait before the next try; raises ``error`` when there have been enough."""
        now = time.monotonic()
        end = now + self._delay
        if end - self._since > self.limit:
            raise error
        if self._tell:
            self._tell(f"{_host()} does not answer, trying again in {self._delay:.0f} s")
        while (now := time.monotonic()) < end:
            if self._check:
                self._check()
            time.sleep(min(0.1, end - now))
        self._delay *= 2


def require_online(offline: bool, what: str) -> None:
    """Raise NetworkError, before any connection, where none is to be made."""
    if offline or is_offline_mode():
        raise NetworkError(
            f"{what} is not on this machine and the network is not to be used (--offline or "
            "HF_HUB_OFFLINE): run once without"
        )


def file_url(repository: str, kind: RepositoryKind, revision: str, name: str) -> str:
    """Where the hub serves a file of a repository."""
    return hf_hub_url(repository, name, repo_type=kind, revision=revision)


@contextmanager
def open_stream(url: str, first: int = 0, last: int | None = None) -> Iterator[Any]:
    """A response whose body comes in pieces, bytes ``first`` to ``last`` (inclusive) asked for.

    The server may ignore the range: look at the status. Raises one of `HUB_ERRORS`.
    """
    headers = build_hf_headers(library_name="mc-chat")
    headers["Accept-Encoding"] = "identity"  # ranges and sizes are those of the file itself
    if first or last is not None:
        headers["Range"] = f"bytes={first}-{'' if last is None else last}"
    with get_session().stream(
        "GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True
    ) as response:
        if response.is_error:
            response.read()
            hf_raise_for_status(response)
        yield response


def status_of(error: Exception) -> int | None:
    """The HTTP status that an error came with, None without one."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def explained(error: Exception, repository: str) -> McChatError:
    """What one of `HUB_ERRORS` means: NetworkError if trying again later helps, else HubError."""
    if isinstance(error, OfflineModeIsEnabled):
        return NetworkError(
            f"{repository} needs the network and HF_HUB_OFFLINE forbids it: run without"
        )
    if isinstance(error, HFValidationError):
        return HubError(f"{repository!r} is no name of a repository: write it like owner/name")
    status = status_of(error)
    if status is None and not isinstance(error, EntryNotFoundError):
        reason = " ".join(str(error).split()) or type(error).__name__
        return NetworkError(f"{_host()} cannot be reached ({reason}): {_AGAIN}")
    if status in _LATER:
        return NetworkError(f"{_host()} is in trouble (HTTP {status}): later, {_AGAIN}")
    return HubError(_refusal(error, repository, status))


def _refusal(error: Exception, repository: str, status: int | None) -> str:
    if isinstance(error, GatedRepoError):
        return (
            f"{repository} is gated: accept its licence at {constants.ENDPOINT}/{repository}, "
            "log in with `hf auth login`, and run again"
        )
    if isinstance(error, DisabledRepoError):
        return f"{repository} has been disabled by the hub: choose another repository"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"the hub has no repository {repository} that you may see: check the name; "
            "for a private one, log in with `hf auth login`"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repository} has no such revision: check its name"
    if isinstance(error, EntryNotFoundError):
        return f"{repository} lacks a file that is needed: it is not what it was taken for"
    if status == 401:
        return (
            "the hub knows no valid token of yours: log in with `hf auth login`, or correct or "
            "unset HF_TOKEN"
        )
    said = getattr(error, "server_message", None) or ""
    said = f" ({' '.join(str(said).split())})" if said else ""
    if status == 403:
        return (
            f"your token does not allow this on {repository}{said}: "
            "take one with that permission, `hf auth login`"
        )
    return f"the hub refuses what was asked of {repository}: HTTP {status}{said}"


def _host() -> str:
    return constants.ENDPOINT.split("://", 1)[-1]
