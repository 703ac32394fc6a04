"""What a compression has changed, as `mc.json` tells it, and on which text that was measured."""

from dataclasses import dataclass
from math import isfinite


@dataclass(frozen=True)
class Agreement:
    """What the compressed model predicts on a text, beside the original, without pruning.

    ``text`` names it. Unless it is ``held_out`` it is the calibration text, on which everything was
    fitted: other text comes out worse. Over ``tokens`` predicted tokens, ``same_token`` is the
    share of those for which both find the same next token the likeliest, 0 to 1; ``perplexity`` is
    the compressed model's.
    """

    text: str
    held_out: bool
    tokens: int
    same_token: float
    perplexity: float
    original_perplexity: float

    @property
    def perplexity_ratio(self) -> float:
        """How many times the original's; 1 is as good."""
        return self.perplexity / self.original_perplexity


@dataclass(frozen=True)
class Quality:
    """``stream_errors[layer]`` is ||Q - X|| / ||X|| over calibration tokens, all or thousands of
    them: X the residual stream behind that layer of the original, Q behind the compressed layers
    up to it. Empty where the two were not carried side by side. ``agreement`` None: likewise."""

    stream_errors: tuple[float, ...] = ()
    agreement: Agreement | None = None


def check_quality(quality: Quality) -> None:
    """Raise ValueError for figures that no compression writes."""
    if not all(isfinite(error) and error >= 0 for error in quality.stream_errors):
        raise ValueError("its stream errors cannot be")
    found = quality.agreement
    if found is None:
        return
    perplexities = (found.perplexity, found.original_perplexity)
    if not all(isfinite(number) and number >= 1 for number in perplexities):
        raise ValueError("its perplexity cannot be")
    if not (0 <= found.same_token <= 1 and found.tokens >= 1):
        raise ValueError("its agreement cannot be")
