"""The five gauges: memory, activated parameters, pruning, speed and context."""

from textual.content import Content

from app.pruning_words import pruning_words
from app.render import safe_text
from app.units import quantity, share, size, speed
from app.widgets.bars import bar, sparkline, spread, stacked_bar
from app.widgets.gauge import (
    KV_CACHE,
    UNKNOWN,
    WEIGHTS,
    WORKSPACE,
    Gauge,
    detail,
    figure,
    heading,
)
from engine.protocol import Memory

PER_LAYER = "per layer "


class MemoryGauge(Gauge):
    """Bytes the engine holds, by part, of its device's memory."""

    def title(self) -> Content:
        """Fixed."""
        return heading("MEMORY")

    def value(self) -> Content:
        """What the engine holds in all."""
        memory = self.readings.memory
        return figure(size(_held(memory)) if memory else UNKNOWN)

    def body(self, width: int) -> list[Content]:
        """The bar and its legend."""
        memory = self.readings.memory or Memory()
        total = memory.total or 1
        others = max(0, memory.total - memory.free - _held(memory))
        parts = (
            (*WEIGHTS, memory.weights),
            (*KV_CACHE, memory.kv_cache),
            (*WORKSPACE, memory.workspace),
            ("other use", "░", "$quiet", others),
        )
        told = self.readings.memory is not None
        legend = [
            spread(
                Content.assemble((glyph, style), " ", detail(name)),
                Content(size(count) if told else UNKNOWN),
                width,
            )
            for name, glyph, style, count in parts[:3]
        ]
        free = size(memory.free) if told else UNKNOWN
        of_total = f" of {size(memory.total)}" if told else ""
        return [
            stacked_bar([(count / total, glyph, style) for _, glyph, style, count in parts], width),
            *legend,
            spread(detail("  free"), Content.assemble(free, detail(of_total)), width),
        ]


class ActivatedGauge(Gauge):
    """Parameters that a token really passes through."""

    def title(self) -> Content:
        """Fixed."""
        return heading("ACTIVE PER TOKEN")

    def value(self) -> Content:
        """The absolute count."""
        meters = self.readings.meters
        return figure(quantity(meters.activated_params) if meters else UNKNOWN)

    def body(self, width: int) -> list[Content]:
        """The share as a bar, and in words."""
        meters = self.readings.meters
        fraction = meters.activated_fraction if meters else 0.0
        total = quantity(self.readings.total_params) if self.readings.total_params else UNKNOWN
        words = f"{share(fraction)} of {total}" if meters else f"of {total}"
        read = f"{size(meters.activated_bytes)} read" if meters else ""
        return [
            bar(fraction, width, "$primary"),
            spread(detail(words), detail(read), width),
        ]


class PruningGauge(Gauge):
    """Expert slots skipped by ODP: now, and over the reply."""

    def title(self) -> Content:
        """With the mode, which a key changes."""
        mode = pruning_words(self.readings.pruning)
        return Content.assemble(heading("PRUNED "), (f" {mode} ", "bold $background on $quiet"))

    def value(self) -> Content:
        """Over the last few tokens."""
        meters = self.readings.meters
        return Content.assemble(
            figure(share(meters.prune_ratio_now) if meters else UNKNOWN), detail(" now")
        )

    def body(self, width: int) -> list[Content]:
        """The reply's course, its mean, and each layer's, the first at the left."""
        meters = self.readings.meters
        recent = self.readings.recent
        top = 0.5 if max(recent, default=0.0) <= 0.5 else 1.0  # ODP skips one of two experts
        lines = sparkline([ratio / top for ratio in recent], width)
        mean = share(meters.prune_ratio) if meters else UNKNOWN
        layers = meters.prune_ratio_layers if meters else ()
        room = width - len(PER_LAYER)
        beside = sparkline([ratio / top for ratio in layers[:room]], room, 1)[0]
        return [
            *(Content.styled(line, "$primary on $background") for line in lines),
            spread(detail(f"{mean} over the reply"), detail(f"scale 0–{top:.0%}"), width),
            Content.assemble(detail(PER_LAYER), (beside, "$primary on $background")),
        ]


class SpeedGauge(Gauge):
    """Tokens per second of this reply."""

    def title(self) -> Content:
        """Fixed."""
        return heading("SPEED")

    def value(self) -> Content:
        """The mean over the reply."""
        meters = self.readings.meters
        mean = speed(meters.tokens_per_second) if meters else UNKNOWN
        return Content.assemble(figure(mean), detail(" tokens/s"))

    def body(self, width: int) -> list[Content]:
        """The wait before the first token, and what multiplies."""
        meters = self.readings.meters
        first = f"{meters.time_to_first_token:.2f} s" if meters else UNKNOWN
        lines = [spread(detail("first token after"), Content(first), width)]
        kernels = self.readings.kernels
        if kernels:
            style = "$warning" if is_slow(kernels) else "$quiet"
            words = Content.styled(safe_text(f"kernels: {kernels}"), style)
            lines.append(words.truncate(width, ellipsis=True))
        return lines


class ContextGauge(Gauge):
    """Tokens of the chat in the model's memory, of how many fit."""

    def title(self) -> Content:
        """Fixed."""
        return heading("CONTEXT")

    def value(self) -> Content:
        """N of M."""
        used, context = self.readings.used, self.readings.context
        return Content.assemble(
            figure(UNKNOWN if used is None else f"{used:,}"),
            detail(f" of {context:,}" if context else ""),
        )

    def body(self, width: int) -> list[Content]:
        """As a bar, which warns when nine tenths are used."""
        used = (self.readings.used or 0) / (self.readings.context or 1)
        return [bar(used, width, "$warning" if used > 0.9 else "$primary")]


class GaugeStrip(Gauge):
    """All of it in two lines, for narrow screens."""

    def title(self) -> Content:
        """Memory."""
        memory = self.readings.memory
        if memory is None:
            return heading("memory –")
        free = detail(f"  {size(memory.free)} free")
        return Content.assemble(heading("memory "), figure(size(_held(memory))), free)

    def value(self) -> Content:
        """Activated parameters."""
        meters = self.readings.meters
        if meters is None:
            return heading("active –")
        return Content.assemble(
            heading("active "),
            figure(quantity(meters.activated_params)),
            detail(
                f"  {share(meters.activated_fraction)} of {quantity(self.readings.total_params)}"
            ),
        )

    def body(self, width: int) -> list[Content]:
        """Pruning, speed and context."""
        meters, used = self.readings.meters, self.readings.used
        mode = pruning_words(self.readings.pruning)
        right = Content.assemble(
            heading("context "),
            figure(UNKNOWN if used is None else f"{used:,}"),
            detail(f" of {self.readings.context:,}" if self.readings.context else ""),
        )
        if meters is None:
            return [spread(heading(f"{mode}  pruned –"), right, width)]
        left = Content.assemble(
            heading(f"{mode} "),
            figure(share(meters.prune_ratio_now)),
            detail(f"  reply {share(meters.prune_ratio)}"),
        )
        middle = Content.assemble(figure(speed(meters.tokens_per_second)), detail(" tokens/s"))
        return [spread(Content.assemble(left, detail("   "), middle), right, width)]


def is_slow(kernels: str) -> bool:
    """Whether what the engine tells of its kernels says that they are the slow ones."""
    return "slow" in kernels or "for want of" in kernels


def _held(memory: Memory) -> int:
    return memory.weights + memory.kv_cache + memory.workspace
