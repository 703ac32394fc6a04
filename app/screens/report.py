"""How far a compressed model is from its original: in all, and layer by layer."""

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static

from app.pruning_words import ways_lines
from app.quality_words import NOT_MEASURED, agreement_words, percent
from app.render import safe_text
from app.units import size
from app.widgets.bars import bar
from app.widgets.header import HeaderLine
from app.widgets.keys_footer import KeysFooter
from engine.budget import STORED_BYTES
from engine.manifest import Manifest
from engine.protocol import PruningMode

STREAM = (
    "Behind each layer: how far the residual stream is from the original's, everything before "
    "included, and (in brackets) what rounding this layer's experts adds."
)
EXPERTS = "In each layer: what rounding its experts changes, as a share of the residual stream."
_BESIDE = 28
"""Cells beside bits and bar: the layer's number, two errors, and what is between them."""


class ReportScreen(Screen[None]):
    """The figures that were measured when the model was made."""

    CSS_PATH = "report.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,escape", "dismiss(None)", "Go on", key_display="Enter"),
    ]

    def __init__(self, name: str, manifest: Manifest, pruning: PruningMode) -> None:
        """``pruning`` is that of the settings."""
        super().__init__()
        self._model_name = name
        self._manifest = manifest
        self._usual = pruning

    def compose(self) -> ComposeResult:
        """What it is, how good it is, and where the error comes from."""
        yield HeaderLine()
        with VerticalScroll(id="report"):
            yield Static(_size_words(self._manifest), markup=False)
            yield Static(_quality_words(self._manifest), markup=False)
            ways = ways_lines(self._model_name, self._usual, self._manifest.otp)
            yield Static(safe_text("\n".join([*ways, ""])), markup=False)
            yield Static(id="layers")
        yield KeysFooter()

    def on_mount(self) -> None:
        """The scrolling keys work at once."""
        header = self.query_one(HeaderLine)
        header.about = f"{safe_text(self._model_name)} · {self._manifest.nominal_bits:.2f} bits"
        header.show("ready", "report")
        self.query_one("#report").focus()

    def on_resize(self, event: events.Resize) -> None:
        """Bars take what room there is."""
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        layers = self.query_one("#layers", Static)
        layers.update(layers_content(self._manifest, layers.content_size.width))


def layers_content(manifest: Manifest, width: int) -> Content:
    """A line for each layer: the widths of its experts, a bar, and the errors in figures."""
    quality = manifest.quality
    streams = quality.stream_errors if quality else ()
    experts = manifest.expert_errors()
    shown = list(streams) or experts
    highest = max((error for error in shown if error is not None), default=0.0)
    widths = [" ".join(map(str, layer.expert_bits)) for layer in manifest.layers]
    longest = max(map(len, widths))
    if longest > width // 3:  # many experts: their mean says most
        widths = [
            f"{sum(each.expert_bits) / len(each.expert_bits):.2f}" for each in manifest.layers
        ]
        longest = len("bits")
    room = max(4, width - longest - _BESIDE)
    heading = f"{'layer':<7}{'bits':<{longest + 2}}{'error'.rjust(room + 9)}"
    lines = [
        Content(STREAM if streams else EXPERTS),
        Content(""),
        Content.styled(heading, "$quiet"),
    ]
    for index, error in enumerate(shown):
        beside = f"({percent(experts[index])})".rjust(10) if streams else ""
        lines.append(
            Content.assemble(
                f"{index:>5}  ",
                (f"{widths[index]:<{longest}}  ", "bold"),
                bar((error or 0.0) / highest if highest else 0.0, room, "$primary"),
                f" {percent(error):>8}",
                (beside, "$quiet"),
            )
        )
    return Content("\n").join(lines)


def _size_words(manifest: Manifest) -> str:
    sizes = manifest.sizes
    original = STORED_BYTES * sizes.total_weights
    return (
        f"{size(sizes.total_bytes)} instead of {size(original)} in 16 bits: "
        f"{manifest.nominal_bits:.2f} bits for the codes of an expert's weight, "
        f"{sizes.bits_per_expert_weight:.2f} with its scales, {sizes.bits_per_weight:.2f} for a "
        "weight of the whole model.\n"
    )


def _quality_words(manifest: Manifest) -> str:
    quality = manifest.quality
    found = quality.agreement if quality else None
    words = agreement_words(found) if found else [NOT_MEASURED]
    return safe_text("\n".join([*words, ""]))
