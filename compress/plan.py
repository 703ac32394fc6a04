"""What fits: a table of widths with their bytes, before anything is downloaded or compressed.

Free of torch. Widths go from 1.5 to 3.0 bits in quarters: below, the paper's perplexity is twice
the original's; above, experts need 4 bits, which is offered where 3.0 leaves room for more. With
eight experts every quarter can be hit exactly, and one step is 1.4 GB on Mixtral 8x7B, about the
least that is worth choosing between.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compress.quantizer_names import DEFAULT_QUANTIZER, is_rotated
from engine import budget
from engine.config import MIXTRAL_8X7B, ModelConfig
from engine.protocol import Device


@dataclass(frozen=True)
class PaperScore:
    """What the paper measured on Mixtral 8x7B near a width (METHOD section 5).

    ``label`` is the width as the paper prints it, attention included; ``perplexity`` is of
    WikiText-2 at 2048 tokens; ``zero_shot`` is the mean over eight tasks, in per cent. None where
    the paper gives none.
    """

    label: float
    perplexity: float | None
    zero_shot: float | None

    @property
    def nominal_bits(self) -> float:
        """The label without the attention's share: the mean code bits of the experts."""
        return (self.label - 0.116) / 0.971


_PAPER = (
    PaperScore(3.0, None, 69.09),  # uniform: with every expert at 3 bits nothing is left to mix
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
Need = Callable[[float, int, budget.DeviceKind], budget.Budget]
"""What a nominal width takes at a context, in tokens, on a kind of device."""

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
class Alternative:
    """Where nothing fits: what ``nominal_bits`` need on another device, or at another context.

    ``device`` is an id; ``free_bytes`` of it are free, 0 if unknown.
    """

    device: str
    device_name: str
    context: int
    nominal_bits: float
    total_bytes: int
    free_bytes: int
    fits: bool


@dataclass(frozen=True)
class Plan:
    """All choices, the smallest first. ``reason`` says why ``recommended`` is, or is not.

    ``alternatives`` is empty unless nothing fits.
    """

    device: Device
    context: int
    choices: tuple[Choice, ...]
    recommended: Choice | None
    reason: str
    alternatives: tuple[Alternative, ...] = ()


def plan(
    config: ModelConfig,
    device: Device,
    context: int | None = None,
    preferred_bits: float | None = None,
    others: Sequence[Device] = (),
    only: float | None = None,
    group_size: int = budget.GROUP_SIZE,
    kv_bits: budget.KvBits = 16,
    quantizer: str = DEFAULT_QUANTIZER,
    also: float | None = None,
) -> Plan:
    """Weigh every width against the free memory of ``device`` at ``context`` tokens.

    ``context`` None: 8192 tokens, or the model's own limit if that is shorter. ``only``: nothing
    but this width, of a model that exists. Recommended is ``preferred_bits`` if it fits
    comfortably, else the largest width that does, else the smallest if it fits at all. Where
    nothing fits, a shorter context is looked for, and ``others``, the further devices of the
    machine. A device of unknown memory is given the benefit of the doubt.
    ``kv_bits``: of an element of the KV cache, 16 for the type of the activations; ``quantizer``:
    what the build will be made with; ``also``: a width that is a choice even where it does not
    fit. Raises UsageError for a context that the model was not trained for.
    """
    need = _need(config, group_size, kv_bits, quantizer)
    tokens = budget.choose_context(config, context)
    widths = budget.NOMINAL_BITS if only is None else (only,)
    choices = tuple(_choice(config, device, tokens, bits, need) for bits in widths)
    if only is None and device.memory_known:
        room = _is_comfortable(choices[-1])
        wide = (_choice(config, device, tokens, bits, need) for bits in budget.WIDE_BITS)
        choices += tuple(row for row in wide if (room and row.fits) or row.nominal_bits == also)
    if any(choice.fits for choice in choices):
        recommended, reason = _recommend(choices, device, preferred_bits)
        return Plan(device, tokens, choices, recommended, reason)
    alternatives = tuple(_alternatives(config, device, tokens, widths[0], others, need))
    reason = _why_nothing(choices[0], device, alternatives)
    return Plan(device, tokens, choices, None, reason, alternatives)


def at_contexts(
    config: ModelConfig,
    device: Device,
    contexts: Sequence[int],
    bits: float,
    group_size: int = budget.GROUP_SIZE,
    kv_bits: budget.KvBits = 16,
    quantizer: str = DEFAULT_QUANTIZER,
) -> tuple[Choice, ...]:
    """One width at several contexts, in tokens, each weighed as `plan` does at its one."""
    need = _need(config, group_size, kv_bits, quantizer)
    return tuple(_choice(config, device, tokens, bits, need) for tokens in contexts)


def _need(config: ModelConfig, group_size: int, kv_bits: budget.KvBits, quantizer: str) -> Need:
    rotated = is_rotated(quantizer)

    def need(bits: float, tokens: int, kind: budget.DeviceKind) -> budget.Budget:
        return budget.nominal_budget(config, bits, group_size, tokens, kind, kv_bits, rotated)

    return need


def _choice(config: ModelConfig, device: Device, context: int, bits: float, need: Need) -> Choice:
    bytes_ = need(bits, context, device.kind)
    return Choice(
        nominal_bits=bits,
        weights_bytes=bytes_.weights,
        kv_bytes=bytes_.kv_cache,
        workspace_bytes=bytes_.workspace,
        total_bytes=bytes_.total,
        fits=_fits(bytes_, device),
        tight=device.memory_known and not device.problem and bytes_.is_tight(device.free_bytes),
        paper_score=paper_score(config, bits),
    )


def _fits(need: budget.Budget, device: Device) -> bool:
    if device.problem:
        return False
    return need.fits(device.free_bytes) if device.memory_known else True


def _is_comfortable(choice: Choice) -> bool:
    return choice.fits and not choice.tight


def _recommend(
    choices: tuple[Choice, ...], device: Device, preferred_bits: float | None
) -> tuple[Choice, str]:
    comfortable = [choice for choice in choices if _is_comfortable(choice)]
    preferred = next((row for row in comfortable if row.nominal_bits == preferred_bits), None)
    if not device.memory_known:
        return preferred or choices[0], (
            f"the free memory of {device.name} is unknown, so that nothing could be checked"
        )
    if preferred:
        return preferred, f"fits on {device.name}, and gives its experts different widths"
    if comfortable:
        return comfortable[-1], f"the largest that fits comfortably on {device.name}"
    return choices[0], f"the only kind that fits on {device.name}, and tightly"


def _alternatives(
    config: ModelConfig,
    device: Device,
    context: int,
    bits: float,
    others: Sequence[Device],
    need: Need,
) -> list[Alternative]:
    """A width at a shorter context, and what it needs on every other device."""

    def on(other: Device, tokens: int) -> Alternative:
        bytes_ = need(bits, tokens, other.kind)
        fits, free = _fits(bytes_, other), other.free_bytes
        return Alternative(other.id, other.name, tokens, bits, bytes_.total, free, fits)

    shorter = None
    if device.memory_known and not device.problem:
        shorter = budget.longest_context(
            config,
            lambda tokens: need(bits, tokens, device.kind),
            device.free_bytes,
        )
    found = [] if shorter is None else [on(device, shorter)]
    return found + [on(other, context) for other in others if _is_another(other, device)]


def _is_another(other: Device, device: Device) -> bool:
    return other.id != device.id and not other.problem


def _why_nothing(smallest: Choice, device: Device, alternatives: tuple[Alternative, ...]) -> str:
    if device.problem:
        why = f"{device.name} cannot be used: {device.problem}"
    else:
        short = _gigabytes(smallest.total_bytes - device.free_bytes)
        why = (
            f"nothing fits on {device.name}: {smallest.nominal_bits} bits need {short} more than "
            "is free"
        )
    ways = [_words(other, device) for other in alternatives]
    if not any(other.fits for other in alternatives):
        ways.append("close other programs or use another device")
    return "; ".join([why, *ways])


def _words(other: Alternative, device: Device) -> str:
    if other.device == device.id:
        return f"a context of {other.context:,} tokens would fit"
    place = "the CPU" if other.device == "cpu" else other.device_name
    need = _gigabytes(other.total_bytes)
    if not other.free_bytes:
        return f"{place} would need {need}"
    would = "could hold it" if other.fits else "could not hold it either"
    return f"{place} {would}: {need}, of {_gigabytes(other.free_bytes)} free"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


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
