"""What is known of each expert, as tables of layers x experts, and one expert in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from app.units import share
from engine.manifest import LayerRecord, Manifest
from engine.protocol import Meters

View = Literal["bits", "frequency", "weight", "error", "live"]
VIEWS: tuple[View, ...] = ("bits", "frequency", "weight", "error", "live")
LEGENDS: dict[View, str] = {
    "bits": "bits of each expert's weights",
    "frequency": "share of tokens that chose it, while the model was calibrated",
    "weight": "share of the routing weight that it carried then",
    "error": "error that its rounding makes at its width",
    "live": "slots that ran in the last second of the reply",
}
Table = tuple[tuple[float, ...], ...]

T = TypeVar("T")


@dataclass(frozen=True)
class Live:
    """What ran: ``runs[layer][expert]`` and ``skipped[layer]`` are slots."""

    runs: tuple[tuple[int, ...], ...] = ()
    skipped: tuple[int, ...] = ()

    @classmethod
    def between(cls, latest: Sequence[Meters]) -> "Live":
        """From the first to the last of a reply's meters; all of it where there is one."""
        if not latest:
            return cls()
        first, last = latest[0], latest[-1]
        if len(latest) == 1 or len(first.expert_runs) != len(last.expert_runs):
            return cls(last.expert_runs, last.skipped)
        runs = tuple(
            tuple(now - then for now, then in zip(*rows, strict=True))
            for rows in zip(last.expert_runs, first.expert_runs, strict=True)
        )
        skipped = (now - then for now, then in zip(last.skipped, first.skipped, strict=True))
        return cls(runs, tuple(skipped))

    def pruned(self, layer: int) -> float:
        """Share of a layer's slots that were skipped; 0 when none were routed."""
        if layer >= len(self.runs):
            return 0.0
        return self.skipped[layer] / max(1, self.skipped[layer] + sum(self.runs[layer]))


def table(layers: Sequence[LayerRecord], view: View, live: Live) -> Table:
    """The view's value of each expert, 0 where it is not known."""
    if view == "live":
        known = tuple(tuple(float(count) for count in runs) for runs in live.runs)
        return known or tuple((0.0,) * len(layer.expert_bits) for layer in layers)
    return tuple(_row(layer, view) for layer in layers)


def in_words(manifest: Manifest, layer: int, expert: int, live: Live) -> str:
    """One expert: what it is, and what it does now."""
    record = manifest.layers[layer]
    facts = [
        f"Layer {layer}, expert {expert}: {_bits(record.expert_bits[expert])}.",
        f"Chosen by {share(_at(record.frequency, expert, 0.0))} of the slots, carries "
        f"{share(_at(record.routing_weight, expert, 0.0))} of the weight, error "
        f"{_error(record, expert):.3g}.",
    ]
    if live.runs:
        facts.append(
            f"In the last second: {live.runs[layer][expert]} runs; of this layer's slots "
            f"{share(live.pruned(layer))} were pruned."
        )
    return " ".join(facts)


def _row(layer: LayerRecord, view: View) -> tuple[float, ...]:
    experts = range(len(layer.expert_bits))
    if view == "bits":
        return tuple(map(float, layer.expert_bits))
    if view == "error":
        return tuple(_error(layer, expert) for expert in experts)
    values = layer.frequency if view == "frequency" else layer.routing_weight
    return tuple(_at(values, expert, 0.0) for expert in experts)


def _error(layer: LayerRecord, expert: int) -> float:
    """At the expert's own width; 0 where it was not measured."""
    bits = layer.expert_bits[expert]
    if bits not in layer.widths:
        return 0.0
    return _at(_at(layer.errors, expert, ()), layer.widths.index(bits), 0.0)


def _at(values: Sequence[T], index: int, default: T) -> T:
    """What a manifest tells, or ``default``: older ones tell less."""
    return values[index] if index < len(values) else default


def _bits(bits: int) -> str:
    return f"{bits} bit" if bits == 1 else f"{bits} bits"
