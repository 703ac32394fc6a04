"""One family of exceptions. Each message is one line: what happened and what to do about it."""


class McChatError(Exception):
    """Base of every error that a user can cause or mend.

    ``exit_code`` is what the command line returns for it (1: failed, 2: bad usage).
    """

    exit_code = 1


class UsageError(McChatError):
    """The command's words make no sense: a width of 7 bits, an unknown option value."""

    exit_code = 2


class CheckpointError(McChatError):
    """A compressed checkpoint is missing, incomplete, truncated or altered."""


class SourceError(McChatError):
    """An original checkpoint cannot be read: missing, unknown architecture, unsafe format."""


class AllocationError(McChatError):
    """The integer program that spreads bits over experts has no solution."""


class DoesNotFitError(McChatError):
    """The model, its KV cache and workspace need more memory than the device has free."""


class ContextFullError(McChatError):
    """A prompt is longer than the context it has to fit in."""


class NetworkError(McChatError):
    """The hub cannot be reached, or it must not be: what is on disk is kept for the next run."""


class HubError(McChatError):
    """The hub answered, but not with what was asked for: no such repository, no permission, a
    licence to accept, altered bytes."""


class DiskFullError(McChatError):
    """There is not enough free disk space for the job."""


class ProtocolError(McChatError):
    """A line between the screen and the worker is not a message of the protocol."""


class WorkerError(McChatError):
    """The engine's process failed or died."""


class Interrupted(McChatError):  # noqa: N818 - not a fault: the user asked for it
    """The user stopped the job; what is on disk is whole and can be resumed."""

    exit_code = 130
