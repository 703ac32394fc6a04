"""The pictures of the method, drawn from `docs.figures`: each function gives one SVG file."""

import math
from collections.abc import Iterator, Sequence

from docs import svg
from docs.figures import REACH, Allocation, Errors, Fate, Ratios, Token, Weights

_BY_WIDTH = {1: "low", 2: "middle", 3: "high"}
_MARKS: dict[Fate, tuple[str, str, str]] = {
    "both": ("middle", "2", "runs both its experts"),
    "one": ("low", "1", "its second expert is skipped"),
    "protected": ("high", "◆", "protected: runs both, whatever the threshold says"),
}
_CELL = 26.0


def widths(found: Sequence[Allocation]) -> str:
    """Layers and experts with the bits of each, one grid for each mean."""
    layers, experts = len(found[0].widths), len(found[0].widths[0])
    panel = experts * _CELL + 34
    top = 92.0

    def parts() -> Iterator[str]:
        for index, each in enumerate(found):
            left = 84 + index * panel
            total = sum(map(sum, each.widths))
            yield svg.text(left, 58, f"{each.bits:g} bits in the mean", bold=True)
            yield svg.text(left, 76, f"{total} for the experts of all layers", "quiet")
            for layer, row in enumerate(each.widths):
                for expert, bits in enumerate(row):
                    place = left + expert * _CELL, top + layer * _CELL
                    yield from svg.cell(*place, _CELL, _CELL, _BY_WIDTH[bits], str(bits))
        for layer in range(layers):
            yield svg.text(72, top + layer * _CELL + 16, f"layer {layer}", "quiet", "end")

    title = "The widths that the program chooses"
    return svg.picture(84 + len(found) * panel, top + layers * _CELL + 20, title, parts())


def errors(found: Errors) -> str:
    """What each expert would lose at each width, the chosen one full, and the bits that it took."""
    bar, gap, high, left, bottom = 20.0, 22.0, 190.0, 64.0, 250.0
    experts = len(found.errors)
    group = 3 * bar + gap
    most = max(map(max, found.errors))

    def parts() -> Iterator[str]:
        for share in (0.0, 0.5, 1.0):
            y = bottom - share * high
            yield svg.line((left - 4, y), (left + experts * group, y))
            yield svg.text(left - 10, y + 4, f"{share * most:,.0f}", "quiet", "end", 11)
        yield svg.text(20, 50, "eps: how much the layer's output changes", "quiet", size=11)
        for expert, row in enumerate(found.errors):
            x = left + expert * group + gap / 2
            chosen = found.chosen[expert]
            for bits, error in enumerate(row, start=1):
                kind = _BY_WIDTH[bits] if bits == chosen else "empty"
                tall = error / most * high
                yield svg.rect(x + (bits - 1) * bar, bottom - tall, bar - 3, tall, kind)
                where = x + (bits - 1) * bar + bar / 2 - 1.5
                ink: svg.Ink = "ink" if bits == chosen else "quiet"
                yield svg.text(where, bottom + 15, str(bits), ink, "middle", 11, bits == chosen)
            yield svg.text(x + 1.5 * bar, bottom + 34, f"expert {expert}", "ink", "middle")
            for bit in range(chosen):
                yield svg.rect(x + bit * bar, bottom + 46, bar - 3, 14, _BY_WIDTH[chosen], 2)
        total = sum(found.chosen)
        words = f"{total} bits spent: {total / experts:g} in the mean over {experts} experts"
        yield svg.text(left, bottom + 82, words, bold=True)

    title = f"Layer {found.layer}: what 1, 2 and 3 bits would cost each expert (full: chosen)"
    return svg.picture(left + experts * group + 20, bottom + 100, title, parts())


def ratios(found: Ratios) -> str:
    """How many tokens have which w1 / w0, and where the threshold cuts."""
    left, width, high, bottom = 40.0, 640.0, 180.0, 250.0
    bar = width / len(found.shares)
    most = max(found.shares)
    cut = left + found.threshold * width

    def parts() -> Iterator[str]:
        for index, share in enumerate(found.shares):
            tall = share / most * high
            kind = "low" if (index + 0.5) / len(found.shares) < found.threshold else "middle"
            yield svg.rect(left + index * bar, bottom - tall, bar - 2, tall, kind)
        yield svg.line((left, bottom), (left + width, bottom))
        for tenth in range(0, 11, 2):
            yield svg.text(
                left + tenth / 10 * width, bottom + 17, f"{tenth / 10:g}", "quiet", "middle"
            )
        yield svg.text(
            left + width / 2,
            bottom + 38,
            "w1 / w0: 0, the second expert hardly counts; 1, as much as the first",
            "quiet",
            "middle",
        )
        yield svg.line((cut, 52), (cut, bottom), "mark", dashed=True)
        yield svg.text(
            cut - 8, 62, f"{found.below:.0%}: second expert skipped", anchor="end", bold=True
        )
        yield svg.text(cut + 8, 62, f"{1 - found.below:.0%}: both run", bold=True)
        yield svg.text(cut + 8, 80, f"threshold {found.threshold:.2f}", "quiet")

    title = f"Layer {found.layer}: the second expert's weight beside the first's, held-out text"
    return svg.picture(left + width + 40, bottom + 54, title, parts())


def tokens(found: Sequence[Token]) -> str:
    """A prompt, token by token, and below each what becomes of it in each layer."""
    left, right, size = 84.0, 860.0, 20.0
    layers = len(found[0].fates)
    tall = layers * size + 44
    x, top = left, 74.0
    drawn: list[str] = []
    for token in found:
        words = _shown(token.text)
        wide = max(22.0, 7.4 * len(words) + 8)
        if x + wide > right:
            x, top = left, top + tall
        if x == left:
            drawn += [
                svg.text(left - 8, top + 22 + layer * size, f"layer {layer}", "quiet", "end", 11)
                for layer in range(layers)
            ]
        drawn.append(svg.text(x + wide / 2 - 1, top, words, "ink", "middle"))
        for layer, fate in enumerate(token.fates):
            kind, mark, _ = _MARKS[fate]
            drawn += svg.cell(x, top + 8 + layer * size, wide, size, kind, mark)
        x += wide
    height = top + tall + 26
    x = left
    for kind, mark, words in _MARKS.values():
        drawn += svg.cell(x, height - 42, 22, size, kind, mark)
        drawn.append(svg.text(x + 28, height - 28, words))
        x += 60 + 6.4 * len(words)
    skipped = sum(token.fates.count("one") for token in found) / (len(found) * layers)
    title = f"A prompt of {len(found)} tokens: {skipped:.0%} of the second experts are skipped"
    return svg.picture(right + 20, height, title, drawn)


def _shown(text: str) -> str:
    """A token with its blank and its line end seen, which byte-level vocabularies write so."""
    return text.replace("Ġ", "·").replace("Ċ", "↵")


def turned(before: Weights, after: Weights) -> str:
    """Sizes of weights before and after their groups are turned, with the normal curve."""
    high, bottom, width = 170.0, 250.0, 360.0
    most = max(*before.shares, *after.shares)
    spacing = width + 50

    def parts() -> Iterator[str]:
        for index, (name, weights) in enumerate((("as they are", before), ("turned", after))):
            left = 30 + index * spacing
            bar = width / len(weights.shares)
            missed = f"{name}: one bit, the sign, misses {weights.missed:.0%} of their energy"
            yield svg.text(left, 56, missed, bold=True)
            for place, share in enumerate(weights.shares):
                tall = share / most * high
                yield svg.rect(left + place * bar, bottom - tall, bar - 1.5, tall, "bar")
            yield svg.curve(_normal(left, bottom, width, high / most / len(weights.shares)), True)
            yield svg.line((left, bottom), (left + width, bottom))
            for value in range(-4, 5, 2):
                x = left + (value + REACH) / (2 * REACH) * width
                yield svg.text(x, bottom + 17, f"{value}", "quiet", "middle")
        words = "weight / root mean square of its group of 128; dashed: a normal distribution"
        yield svg.text(30 + spacing - 25, bottom + 38, words, "quiet", "middle")

    title = "What turning a group of weights by a Hadamard matrix does"
    return svg.picture(30 + 2 * spacing - 20, bottom + 54, title, parts())


def _normal(left: float, bottom: float, width: float, scale: float) -> list[tuple[float, float]]:
    """The normal density; ``scale`` is the height of a share of 1 in every bin."""
    points = []
    for step in range(81):
        value = (step / 40 - 1) * REACH
        density = math.exp(-value * value / 2) / math.sqrt(2 * math.pi)
        points.append((left + step / 80 * width, bottom - density * 2 * REACH * scale))
    return points
