"""Which versions are at work here."""

from importlib import metadata

_LIBRARIES = ("torch", "triton", "numba", "transformers", "safetensors", "textual", "hqq", "pulp")


def version() -> str:
    """mc-chat's own version."""
    return _installed("mc-chat") or "of a source tree"


def libraries() -> dict[str, str | None]:
    """The versions of the libraries that matter, None for one that is absent."""
    return {name: _installed(name) for name in _LIBRARIES}


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
