"""The installed models in a list, two lines each; damaged ones say what is wrong."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets.option_list import Option

from app.models import DamagedModel, InstalledModel
from app.pruning_words import ways_words
from app.render import safe_text
from app.units import size
from app.widgets.bars import spread
from app.widgets.wish_list import WishList
from engine.protocol import PruningMode

Model = InstalledModel | DamagedModel


class ModelList(WishList):
    """Letters are keys. Enter, or a click, selects an option as usual."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Load", key_display="Enter"),
        Binding("r", "wish('report')", "Report"),
        Binding("m", "wish('map')", "Map"),
        Binding("v", "wish('verify')", "Verify"),
        Binding("p", "wish('publish')", "Publish"),
        Binding("x", "wish('remove')", "Remove"),
    ]

    def __init__(self, when: Callable[[float], str], pruning: PruningMode) -> None:
        """``when``: see `WishList`; ``pruning`` is that of the settings."""
        super().__init__(when)
        self._usual = pruning
        self.models: Sequence[Model] = ()
        self._in_use = ""

    @property
    def model(self) -> Model | None:
        """The highlighted one."""
        return None if self.highlighted is None else self.models[self.highlighted]

    def show(self, models: Sequence[Model], in_use: str) -> None:
        """Show these; the one named ``in_use`` is marked, and highlighted at first."""
        names = [model.name for model in models]
        before = self.highlighted
        self.models, self._in_use = models, in_use
        self.clear_options()
        self.add_options([Option(self._lines_of(model)) for model in models])
        if before is None:
            self.highlighted = names.index(in_use) if in_use in names else 0 if names else None
        else:
            self.highlighted = min(before, len(names) - 1) if names else None

    def on_resize(self, event: events.Resize) -> None:
        """The sizes keep to the right edge."""
        for place, model in enumerate(self.models):
            self.replace_option_prompt_at_index(place, self._lines_of(model))

    def _lines_of(self, model: Model) -> Content:
        width = max(self.scrollable_content_region.width, 1) - 1
        mark = ("● ", "$success") if model.name == self._in_use else "  "
        if isinstance(model, DamagedModel):
            name = Content.assemble(("✕ ", "$error"), (safe_text(model.name), "bold"))
            below = model.problem.replace(f"{model.folder}/", "")
            right = Content.styled("damaged", "$error")
        else:
            name = Content.assemble(mark, (safe_text(model.name), "bold"))
            below = self._about(model)
            right = Content(size(model.manifest.sizes.total_bytes))
        second = Content.styled(f"  {safe_text(below)}", "$quiet").truncate(width, ellipsis=True)
        return Content("\n").join([spread(name, right, width), second])

    def _about(self, model: InstalledModel) -> str:
        manifest = model.manifest
        return (
            f"{manifest.nominal_bits:.2f} bits · {self.when(model.installed)}"
            f" · {manifest.source.repository} · {ways_words(self._usual, manifest.otp)}"
        )
