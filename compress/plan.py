"""What fits: a table of widths with their bytes, before anything is downloaded or compressed.

Free of torch. Widths go from 1.5 to 3.0 bits in quarters: below, the paper's perplexity is twice
the original's; above, an expert would need 4 bits. With eight experts every quarter can be hit
exactly, and one step is 1.4 GB on Mixtral 8x7B, about the least that is worth choosing between.
"""

from dataclasses import dataclass

from engine import budget
from engine.config import MIXTRAL_8X7B, ModelConfig
from engine.protocol import Device


@dataclass(frozen=True)
class PaperScore:
    """What the paper measured on Mixtral 8x7B near a width (METHOD section 5).

    ``label`` is the width as the paper prints it, attention included; ``perplexity`` is of
    WikiText-2 at 2048 tokens; ``zero_shot`` is the mean over eight tasks, in per cent, None where
    the paper gives none.
    """

    label: float
    perplexity: float
    zero_shot: float | None

    @property
    def nominal_bits(self) -> float:
        """The label without the attention's share: the mean code bits of the experts."""
        return (self.label - 0.116) / 0.971


_PAPER = (
    PaperScore(2.54, 5.09, 67.50),
    PaperScore(2.42, 5.25, None),
    PaperScore(2.30, 5.45, None),
    PaperScore(2.20, 5.72, None),
    PaperScore(2.05, 5.91, 63.25),
    PaperScore(1.94, 6.49, None),
    PaperScore(1.81, 6.81, None),
    PaperScore(1.69, 7.78, None),
    PaperScore(1.57, 8.50, 54.49),
)
_NEAR = 0.06
"""A row of the paper speaks for a width at most this many bits away; nothing is interpolated."""


@dataclass(frozen=True)
class Choice:
    """One row of the table. Sizes in bytes; ``tight`` fits, but leaves less than a tenth free."""

    nominal_bits: float
    weights_bytes: int
    kv_bytes: int
    workspace_bytes: int
    total_bytes: int
    fits: bool
    tight: bool
    paper_score: PaperScore | None


@dataclass(frozen=True)
class Plan:
    """All choices, the smallest first. ``reason`` says why ``recommended`` is, or is not."""

    device: Device
    context: int
    choices: tuple[Choice, ...]
    recommended: Choice | None
    reason: str


def plan(
    config: ModelConfig,
    device: Device,
    context: int | None = None,
    preferred_bits: float | None = None,
) -> Plan:
    """Weigh every width against the free memory of ``device`` at ``context`` tokens.

    ``context`` None: 8192 tokens, or the model's own limit if that is shorter. Recommended is
    ``preferred_bits`` if it fits comfortably, else the largest width that does, else the smallest
    if it fits at all. Raises UsageError for a context that the model was not trained for.
    """
    tokens = budget.choose_context(config, context)
    choices = tuple(_choice(config, device, tokens, bits) for bits in budget.NOMINAL_BITS)
    recommended, reason = _recommend(choices, device, preferred_bits)
    return Plan(device, tokens, choices, recommended, reason)


def _choice(config: ModelConfig, device: Device, context: int, bits: float) -> Choice:
    need = budget.nominal_budget(config, bits, budget.GROUP_SIZE, context, device.kind)
    return Choice(
        nominal_bits=bits,
        weights_bytes=need.weights,
        kv_bytes=need.kv_cache,
        workspace_bytes=need.workspace,
        total_bytes=need.total,
        fits=need.fits(device.free_bytes),
        tight=need.is_tight(device.free_bytes),
        paper_score=paper_score(config, bits),
    )


def _recommend(
    choices: tuple[Choice, ...], device: Device, preferred_bits: float | None
) -> tuple[Choice | None, str]:
    comfortable = [choice for choice in choices if choice.fits and not choice.tight]
    preferred = next((row for row in comfortable if row.nominal_bits == preferred_bits), None)
    if preferred:
        return preferred, f"fits on {device.name}, and gives its experts different widths"
    if comfortable:
        return comfortable[-1], f"the largest that fits comfortably on {device.name}"
    smallest = choices[0]
    if smallest.fits:
        return smallest, f"the only kind that fits on {device.name}, and tightly"
    short = (smallest.total_bytes - device.free_bytes) / 2**30
    return None, (
        f"nothing fits on {device.name}: {smallest.nominal_bits} bits need {short:.1f} GiB more "
        "than is free; shorten the context, close other programs or use another device"
    )


def paper_score(config: ModelConfig, nominal_bits: float) -> PaperScore | None:
    """The paper's row for this width: on Mixtral 8x7B's shape only, and only where it has one."""
    if _shape(config) != _shape(MIXTRAL_8X7B):
        return None
    nearest = min(_PAPER, key=lambda row: abs(row.nominal_bits - nominal_bits))
    return nearest if abs(nearest.nominal_bits - nominal_bits) <= _NEAR else None


def _shape(config: ModelConfig) -> tuple[int, ...]:
    return (
        config.num_layers,
        config.hidden_size,
        config.intermediate_size,
        config.num_experts,
        config.top_k,
    )
