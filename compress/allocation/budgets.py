"""What an allocator may spend: whole bits within a layer, or bytes over all layers."""

from dataclasses import dataclass

from compress.allocator_names import check_allocator, needs_all_layers
from engine import budget as byte_counts
from engine.config import ModelConfig
from engine.errors import AllocationError, UsageError

WIDTHS = (1, 2, 3)
"""What the paper's program chooses from, in bits."""

WIDEST_WIDTHS = (1, 2, 3, 4)
"""What there is to choose from when more than 3 bits are asked for."""

FORCED_WIDTHS = (3, 2)
"""Widths that the paper's program gives to at least one expert each."""

BSP_WIDTHS = (2, 4)
"""The widths of BSP: a layer's experts share one."""

BSP_SHARE = 4
"""BSP gives its larger width to one layer in so many."""

_BSP_BITS = BSP_WIDTHS[0] + (BSP_WIDTHS[1] - BSP_WIDTHS[0]) / BSP_SHARE
_WITHOUT_ERRORS = ("uniform", "random")


@dataclass(frozen=True)
class Budget:
    """The bits of one layer: ``total`` over all experts, each of one of ``widths``.

    ``forced`` widths go to at least one expert each; ``notes`` say what was rounded.
    """

    total: int
    forced: tuple[int, ...]
    notes: tuple[str, ...]
    widths: tuple[int, ...] = WIDTHS

    def is_feasible(self, experts: int) -> bool:
        """Whether any allocation to so many experts has this total and the forced widths."""
        rest = experts - len(self.forced)
        left = self.total - sum(self.forced)
        return rest >= 0 and self.widths[0] * rest <= left <= self.widths[-1] * rest


@dataclass(frozen=True)
class ModelBudget:
    """What the experts of all layers take together: at most ``bytes``.

    An expert at ``widths[j]`` bits takes ``prices[j]`` bytes: codes, scales and zero points. At
    1 bit there are no zero points, so prices are not proportional to widths.
    """

    bytes: int
    prices: tuple[int, ...]
    notes: tuple[str, ...]
    widths: tuple[int, ...] = WIDTHS


def widths_for(allocator: str, bits: float) -> tuple[int, ...]:
    """The widths that eps must be measured at; none for an allocator that asks for no errors."""
    check_allocator(allocator)
    if allocator in _WITHOUT_ERRORS:
        return ()
    return BSP_WIDTHS[:1] if allocator == "bsp" else _choices(bits)


def _choices(bits: float) -> tuple[int, ...]:
    """The widths to choose from for a mean of ``bits``. Raises UsageError."""
    low, high = WIDEST_WIDTHS[0], WIDEST_WIDTHS[-1]
    if not low <= bits <= high:
        raise UsageError(f"--bits {bits:g} is not possible: choose between {low} and {high}")
    return WIDTHS if bits <= WIDTHS[-1] else WIDEST_WIDTHS


def plan_budget(allocator: str, bits: float, experts: int) -> Budget:
    """Turn a mean width of ``bits`` into whole bits for the ``experts`` experts of a layer.

    Mean widths move in steps of 1/experts and are rounded to the nearest. Where the two forced
    widths cannot hold they are dropped. Both are said in the notes. For an allocator that decides
    on one layer at a time.
    Raises UsageError for a width outside 1 .. 4, AllocationError for a program without solution.
    """
    check_allocator(allocator)
    widths = _choices(bits)
    if allocator == "uniform":
        if bits != int(bits):
            raise AllocationError(
                f"uniform allocation cannot reach {bits:g} bits: choose 1, 2, 3 or 4, or another "
                "allocator"
            )
        return Budget(int(bits) * experts, (), (), widths)
    total = round(bits * experts)
    notes = []
    if total != bits * experts:
        notes.append(
            f"{bits:g} bits rounded to {total / experts:g}: {experts} experts move in steps of "
            f"1/{experts}"
        )
    if allocator.endswith("-free"):
        return Budget(total, (), tuple(notes), widths)
    forced = Budget(total, FORCED_WIDTHS, tuple(notes), widths)
    # The paper knows no fourth width: above 3 bits nothing forces an expert down to 2.
    if widths == WIDTHS and forced.is_feasible(experts):
        return forced
    notes.append(
        f"at {total / experts:g} bits the constraints to have a 3-bit and a 2-bit expert in each "
        "layer are dropped"
    )
    return Budget(total, (), tuple(notes), widths)


def plan_model_budget(
    allocator: str,
    bits: float,
    config: ModelConfig,
    group_size: int,
    expert_bytes: int | None = None,
    rotated: bool = False,
) -> ModelBudget:
    """The bytes that the experts of all layers may take, for an allocator over all layers.

    Those of ``rotated`` ones are fewer: they store no zero points.
    ``expert_bytes``, or, if that is None, what the evenest spread of ``bits`` takes. BSP takes
    what it takes: a quarter of the layers at 4 bits, at least one, and the rest at 2.
    Raises UsageError for a width outside 1 .. 4 or one that BSP does not give, AllocationError
    for bytes that not even 1 bit fits into.
    """
    if not needs_all_layers(allocator):
        raise ValueError(f"{allocator} decides on one layer at a time")
    if allocator == "bsp":
        return _bsp_budget(bits, config, group_size, expert_bytes, rotated)
    widths = _choices(bits)
    prices = _prices(config, widths, group_size, rotated)
    experts = config.num_layers * config.num_experts
    if expert_bytes is None:
        spread = byte_counts.spread_bits(bits, experts)
        total = sum(prices[widths.index(width)] for width in spread)
        note = f"{total:,} bytes for all experts: what {bits:g} bits each take"
        return ModelBudget(total, prices, (note,), widths)
    if expert_bytes < experts * prices[0]:
        raise AllocationError(
            f"{expert_bytes:,} bytes are too few for the experts: at {widths[0]} bit they take "
            f"{experts * prices[0]:,}"
        )
    notes = [f"{expert_bytes:,} bytes for all experts"]
    if expert_bytes > experts * prices[-1]:
        notes.append(f"{widths[-1]} bits for each take only {experts * prices[-1]:,}")
    return ModelBudget(expert_bytes, prices, tuple(notes), widths)


def bsp_layers(layers: int) -> int:
    """How many of the layers BSP gives its larger width."""
    return max(1, layers // BSP_SHARE)


def _bsp_budget(
    bits: float, config: ModelConfig, group_size: int, expert_bytes: int | None, rotated: bool
) -> ModelBudget:
    if bits != _BSP_BITS or expert_bytes is not None:
        raise UsageError(
            f"bsp knows one size, {_BSP_BITS:g} bits: say --bits {_BSP_BITS:g}, or choose another "
            "allocator"
        )
    wide = bsp_layers(config.num_layers)
    narrow = config.num_layers - wide
    prices = _prices(config, BSP_WIDTHS, group_size, rotated)
    total = config.num_experts * (narrow * prices[0] + wide * prices[1])
    mean = (narrow * BSP_WIDTHS[0] + wide * BSP_WIDTHS[1]) / config.num_layers
    note = f"bsp: {wide} of {config.num_layers} layers at {BSP_WIDTHS[1]} bits, {mean:g} bits"
    return ModelBudget(total, prices, (note,), BSP_WIDTHS)


def _prices(
    config: ModelConfig, widths: tuple[int, ...], group_size: int, rotated: bool
) -> tuple[int, ...]:
    """Bytes of one expert at each width."""
    return tuple(byte_counts.expert_bytes(config, (bits,), group_size, rotated) for bits in widths)
