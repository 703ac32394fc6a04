"""What is known of each expert, as tables of layers x experts, and one expert in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from app.units import share
from engine.manifest import LayerRecord, Manifest
from engine.protocol import Meters

View = Literal["bits", "frequency", "weight", "error", "live", "pruned"]
VIEWS: tuple[View, ...] = ("bits", "frequency", "weight", "error", "live", "pruned")
TALKING: tuple[View, ...] = ("live", "pruned")
"""Those that show what the model does now."""
_LEGENDS: dict[View, str] = {
    "bits": "bits of each expert's weights",
    "frequency": "share of tokens that chose it, while the model was calibrated",
    "weight": "share of the routing weight that it carried then",
    "error": "error that its rounding makes at its width",
    "live": "slots that ran in the last {span}",
    "pruned": "of the slots that chose it in the last {span}, those that were skipped",
}
Table = tuple[tuple[float, ...], ...]
Slots = tuple[tuple[int, ...], ...]

T = TypeVar("T")


@dataclass(frozen=True)
class Live:
    """What ran and what was pruned: ``runs[layer][expert]`` and ``skips`` are slots, of a second or
    of a ``whole`` reply."""

    runs: Slots = ()
    skips: Slots = ()
    whole: bool = False

    @classmethod
    def of_reply(cls, meters: Meters | None) -> "Live":
        """All of a reply that has these meters; None: nothing."""
        return cls(meters.expert_runs, meters.expert_skips, whole=True) if meters else cls()

    @classmethod
    def between(cls, latest: Sequence[Meters]) -> "Live":
        """From the first to the last of a reply's meters; all of it where there is one."""
        if not latest:
            return cls()
        first, last = latest[0], latest[-1]
        if len(latest) == 1 or len(first.expert_runs) != len(last.expert_runs):
            return cls(last.expert_runs, last.expert_skips)
        return cls(
            _less(last.expert_runs, first.expert_runs), _less(last.expert_skips, first.expert_skips)
        )

    @property
    def span(self) -> str:
        """Of what it is."""
        return "reply" if self.whole else "second"

    def pruned(self, layer: int) -> float:
        """Share of a layer's slots that were skipped; 0 when none were routed."""
        if layer >= len(self.runs):
            return 0.0
        skipped = sum(self.skips[layer])
        return skipped / max(1, skipped + sum(self.runs[layer]))

    def pruned_of(self, layer: int, expert: int) -> float:
        """Share of the slots that chose an expert and were skipped; 0 when none chose it."""
        if layer >= len(self.runs):
            return 0.0
        ran, skipped = self.runs[layer][expert], self.skips[layer][expert]
        return skipped / max(1, ran + skipped)


def _less(now: Slots, then: Slots) -> Slots:
    return tuple(
        tuple(late - early for late, early in zip(*rows, strict=True))
        for rows in zip(now, then, strict=True)
    )


def legend(view: View, live: Live) -> str:
    """What the bars mean."""
    return _LEGENDS[view].format(span=live.span)


def table(layers: Sequence[LayerRecord], view: View, live: Live) -> Table:
    """The view's value of each expert, 0 where it is not known."""
    if view in TALKING and not live.runs:
        return tuple((0.0,) * len(layer.expert_bits) for layer in layers)
    if view == "live":
        return tuple(tuple(map(float, runs)) for runs in live.runs)
    if view == "pruned":
        return tuple(
            tuple(live.pruned_of(place, expert) for expert in range(len(runs)))
            for place, runs in enumerate(live.runs)
        )
    return tuple(_row(layer, view) for layer in layers)


def in_words(manifest: Manifest, layer: int, expert: int, live: Live) -> str:
    """One expert: what it is, and what it does now."""
    record = manifest.layers[layer]
    facts = [
        f"Layer {layer}, expert {expert}: {_bits(record.expert_bits[expert])}.",
        f"Chosen by {share(_at(record.frequency, expert, 0.0))} of the slots, carries "
        f"{share(_at(record.routing_weight, expert, 0.0))} of the weight.",
        _error_words(manifest, layer, expert),
    ]
    if live.runs:
        facts.append(
            f"In the last {live.span}: {live.runs[layer][expert]} runs, "
            f"{live.skips[layer][expert]} pruned; of this layer's slots "
            f"{share(live.pruned(layer))} were pruned."
        )
    return " ".join(facts)


def _error_words(manifest: Manifest, layer: int, expert: int) -> str:
    """As a share of the residual stream, where eps was measured at the layer's own output."""
    record = manifest.layers[layer]
    error = _error(record, expert)
    if not error:
        return "What its rounding costs was not measured."
    if record.stream_norm and manifest.recipe.error == "block":
        part = share(error / record.stream_norm)
        return f"Rounding it changes the stream behind its layer by {part}."
    return f"Rounding error (eps) {error:.3g}."


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
