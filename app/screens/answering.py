"""How this chat is answered: what the model is told beforehand, and how its words are drawn."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, ClassVar, Literal

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Select, Static, TextArea

from app.render import safe_text
from app.setting_words import EXPLAINED
from app.settings import Settings
from engine.protocol import SamplingOptions

FIELDS: dict[str, tuple[str, type[int] | type[float], str]] = {
    "temperature": ("Temperature", float, ""),
    "top_k": ("Top-k", int, ""),
    "top_p": ("Top-p", float, ""),
    "min_p": ("Min-p", float, ""),
    "repetition_penalty": ("Repetition penalty", float, ""),
    "max_tokens": ("Longest reply, in tokens", int, "no limit"),
    "seed": ("Seed", int, "another each time"),
}
"""Label, type, and what an empty field means; those that may not be empty have no such words."""

TOLD = "What the model is told before the chat begins; empty: nothing."
NO_PRESETS = "none ([presets.NAME] in the settings)"
ONE_LINE = "Tab and arrows: the fields"


@dataclass(frozen=True)
class Answering:
    """``preset`` names the one that ``system`` is from, empty if none. ``max_tokens`` None: up to
    the context."""

    system: str
    preset: str
    sampling: SamplingOptions
    max_tokens: int | None


class AnsweringScreen(ModalScreen[Answering | None]):
    """Lets the user change it; the result is None where all stays."""

    CSS_PATH: ClassVar[list[str | PurePath]] = ["dialog.tcss", "answering.tcss"]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Leave it"),
        Binding("ctrl+s", "apply", "Apply"),
        Binding("ctrl+r", "reset", "As in the settings"),
        Binding("up", "app.focus_previous", "Field before", show=False),
        Binding("down", "app.focus_next", "Next field", show=False),
    ]

    def __init__(self, now: Answering, settings: Settings) -> None:
        super().__init__()
        self._now = now
        self._settings = settings
        self._preset = now.preset if now.preset in settings.presets else ""

    def compose(self) -> ComposeResult:
        """The preset, the system prompt, a line for each way to draw, and a line of help."""
        with VerticalScroll(classes="dialog", id="answering", can_focus=False) as dialog:
            dialog.border_title = "How this chat is answered"
            dialog.border_subtitle = "Enter or Ctrl+S applies · Ctrl+R as in the settings · Esc"
            with Horizontal(classes="field"):
                yield Label("Preset")
                if self._settings.presets:
                    names = [(Content(safe_text(name)), name) for name in self._settings.presets]
                    yield Select(
                        [(Content("none"), ""), *names],
                        value=self._preset,
                        allow_blank=False,
                        compact=True,
                    )
                else:
                    yield Static(NO_PRESETS, classes="quiet", markup=False)
            yield Label("System prompt")
            system = TextArea(self._now.system, id="system", compact=True, soft_wrap=True)
            system.cursor_blink = False
            yield system
            for name, text in _texts(self._now.sampling, self._now.max_tokens):
                label, _, empty = FIELDS[name]
                with Horizontal(classes="field"):
                    yield Label(label)
                    yield Input(text, id=name, placeholder=empty, compact=True)
            yield Static(ONE_LINE, id="told", markup=False)

    def on_mount(self) -> None:
        """Begin where most is changed."""
        for field in self.query(Input):
            field.cursor_blink = False
        self.query_one("#temperature", Input).focus()

    # --- what the user does -------------------------------------------------------------------

    def on_descendant_focus(self) -> None:
        """Say what the field means."""
        focused = self.focused
        if focused is None or self._problem():
            return
        if focused.id in FIELDS:
            self._tell(EXPLAINED[focused.id].words)
        else:
            self._tell(TOLD if focused.id == "system" else ONE_LINE)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Say at once what is wrong."""
        event.stop()
        problem = self._problem()
        if problem:
            self._tell(problem, "error")
        elif event.input.id in FIELDS:
            self._tell(EXPLAINED[event.input.id].words)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter in a field."""
        event.stop()
        self.action_apply()

    def on_select_changed(self, event: Select.Changed) -> None:
        """Fill in what the preset says, and what the settings say where it says nothing."""
        event.stop()
        name = str(event.value)
        if name != self._preset:
            self._preset = name
            self._fill()

    def action_reset(self) -> None:
        """As in the settings, without a preset."""
        self._preset = ""
        for select in self.query(Select):
            select.value = ""
        self._fill()

    def action_apply(self) -> None:
        """End with what stands there, if it may be."""
        if problem := self._problem():
            self._tell(problem, "error")
            return
        values: dict[str, Any] = {name: self._value(name) for name in FIELDS}
        max_tokens = values.pop("max_tokens")
        system = self.query_one("#system", TextArea).text.strip()
        own = self._preset and system != self._system_of(self._preset)
        self.dismiss(
            Answering(
                system=system,
                preset="" if own else self._preset,
                sampling=SamplingOptions(**values),
                max_tokens=max_tokens,
            )
        )

    # --- the rest -----------------------------------------------------------------------------

    def _system_of(self, preset: str) -> str:
        own = self._settings.presets[preset].system if preset else None
        return safe_text(self._settings.system if own is None else own).strip()

    def _fill(self) -> None:
        settings = self._settings
        self.query_one("#system", TextArea).text = self._system_of(self._preset)
        sampling = settings.sampling
        if self._preset:
            sampling = settings.presets[self._preset].sampling(sampling)
        for name, text in _texts(sampling, settings.max_tokens):
            self.query_one(f"#{name}", Input).value = text

    def _value(self, name: str) -> int | float | None:
        """What stands in a field; None where that is empty and may be."""
        text = self.query_one(f"#{name}", Input).value.strip()
        return None if not text and FIELDS[name][2] else FIELDS[name][1](text)

    def _problem(self) -> str:
        """The first field that holds what it may not, empty if none does."""
        for name, (label, kind, _) in FIELDS.items():
            try:
                value = self._value(name)
            except ValueError:
                number = "a whole number" if kind is int else "a number"
                return f"{label} must be {number}: {EXPLAINED[name].allowed}"
            if value is not None and not EXPLAINED[name].holds(value):
                return f"{label} must be {EXPLAINED[name].allowed}"
        return ""

    def _tell(self, text: str, kind: Literal["quiet", "error"] = "quiet") -> None:
        told = self.query_one("#told", Static)
        told.update(text)
        told.set_classes(f"-{kind}")


def _texts(sampling: SamplingOptions, max_tokens: int | None) -> Iterator[tuple[str, str]]:
    """What stands in each field."""
    values = {**dataclasses.asdict(sampling), "max_tokens": max_tokens}
    for name in FIELDS:
        value = values[name]
        yield (
            name,
            "" if value is None else f"{value:g}" if isinstance(value, float) else str(value),
        )
