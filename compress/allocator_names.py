"""The allocators' names, and what planning must know of them. Free of torch."""

from engine.errors import UsageError

ALLOCATOR_NAMES = (
    "pmq", "pmq-free", "global", "uniform", "random", "frequency", "weight", "fnorm", "fnorm-free",
    "hessian", "bsp",
)  # fmt: skip
"""See `compress.allocation`."""

_WHOLE_MODEL = ("global", "bsp")
_WORDS = {
    "global": "PMQ, one program over all layers (global)",
    "pmq": "PMQ, one program for each layer (pmq)",
}


def default_allocator(reads_no_text: bool) -> str:
    """What spreads the bits where nothing is named: one program over all layers. A build that
    reads no text knows no residual stream, by which layers are compared: one for each layer."""
    return "pmq" if reads_no_text else "global"


def check_allocator(name: str) -> None:
    """Raise UsageError, naming the choices, for an allocator that does not exist."""
    if name not in ALLOCATOR_NAMES:
        raise UsageError(f"no allocator {name!r}; available: {', '.join(ALLOCATOR_NAMES)}")


def needs_all_layers(allocator: str) -> bool:
    """Whether an allocator wants the scores of all layers before it decides on the first."""
    check_allocator(allocator)
    return allocator in _WHOLE_MODEL


def allocator_words(name: str) -> str:
    """An allocator as people read it, of another version's checkpoint, too."""
    return _WORDS.get(name, name)
