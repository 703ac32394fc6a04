"""The quantizers' names, and what planning must know of them. Free of torch."""

DEFAULT_QUANTIZER = "rotated"

QUANTIZER_NAMES = ("rotated", "corrected", "refined", "gptq", "rtn", "hqq", "minmax")
"""See `compress.quantizers.QUANTIZERS`."""

_ROTATED = ("rotated",)
_SWEEPING = ("rotated", "corrected", "refined")

SWEEPS = 3
SCORING_SWEEPS = 1
"""Sweeps of coordinate descent, and when codes are only made to measure what a width costs."""


def is_rotated(quantizer: str) -> bool:
    """Whether its experts are, and store no zero points."""
    return quantizer in _ROTATED


def reads_no_text(quantizer: str, has_text: bool) -> bool:
    """Whether a build by it goes by the weights alone: the quick one by hqq, given no text."""
    return quantizer == "hqq" and not has_text


def sweeps_of(quantizer: str) -> tuple[int, int]:
    """Sweeps while scoring and while quantizing."""
    return (SCORING_SWEEPS, SWEEPS) if quantizer in _SWEEPING else (0, 0)
