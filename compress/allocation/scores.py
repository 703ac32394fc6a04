"""What the programs go by: the scores of a layer's experts, and how they are weighed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.errors import AllocationError
from engine.manifest import LayerRecord


@dataclass(frozen=True)
class LayerScores:
    """What calibration found out about the experts of one layer; tuples are per expert.

    ``frequency`` and ``routing_weight`` sum to 1. ``errors[expert][j]`` is eps at ``widths[j]``
    bits, the Frobenius norm of what rounding this expert alone changes in the output.
    ``trace_errors[expert][j]`` is the sum over its matrices of mean(diag H) * ||W - Q||_F^2.
    ``stream_norm`` makes the errors of different layers comparable: the Frobenius norm of the
    residual stream after the layer, or the same number for all layers where eps is measured on
    the model's output. The last two are empty and 0 where nobody measured them.
    """

    frequency: tuple[float, ...]
    routing_weight: tuple[float, ...]
    errors: tuple[tuple[float, ...], ...]
    trace_errors: tuple[tuple[float, ...], ...] = ()
    stream_norm: float = 0.0
    widths: tuple[int, ...] = (1, 2, 3)

    @classmethod
    def of(cls, record: LayerRecord) -> "LayerScores":
        """The scores that a finished checkpoint remembers."""
        return cls(
            frequency=record.frequency,
            routing_weight=record.routing_weight,
            errors=record.errors,
            trace_errors=record.trace_errors,
            stream_norm=record.stream_norm,
            widths=record.widths,
        )

    def on_model(
        self, errors: tuple[tuple[float, ...], ...], widths: tuple[int, ...]
    ) -> "LayerScores":
        """The same with eps of the model's output, which compares between layers as it is."""
        return replace(self, errors=errors, widths=widths, stream_norm=1.0)

    def errors_at(self, widths: Sequence[int]) -> list[list[float]]:
        """eps of each expert at these widths. Raises AllocationError for one never measured."""
        return self._at(self.errors, widths)

    def trace_errors_at(self, widths: Sequence[int]) -> list[list[float]]:
        """The Hessian trace's errors at these widths. Raises AllocationError as `errors_at`."""
        return self._at(self.trace_errors, widths)

    def _at(self, table: tuple[tuple[float, ...], ...], widths: Sequence[int]) -> list[list[float]]:
        if not table or not set(widths) <= set(self.widths):
            measured = ", ".join(map(str, self.widths)) if table else "no"
            raise AllocationError(
                f"this allocator needs errors at {', '.join(map(str, widths))} bits and these "
                f"scores hold {measured} bits: measure them again"
            )
        columns = [self.widths.index(bits) for bits in widths]
        return [[row[j] for j in columns] for row in table]


@dataclass(frozen=True)
class Exponents:
    """alpha, beta and gamma of the program: the weights of frequency, routing weight and error."""

    alpha: float = 1.0
    beta: float = 1.5
    gamma: float = 2.0


def default_exponents(allocator: str) -> Exponents:
    """The paper's, but for `global`, which goes by the errors alone: those of the block's output
    hold already how often and how much an expert is used, and counting it twice never helped."""
    return Exponents(alpha=0.0, beta=0.0) if allocator == "global" else Exponents()
