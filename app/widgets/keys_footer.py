"""The line of keys at the bottom: Textual's, without what it leaves behind."""

from textual.widgets import Footer


class KeysFooter(Footer):
    """Compact, without a key for the palette."""

    def __init__(self) -> None:
        super().__init__(show_command_palette=False, compact=True)

    async def recompose(self) -> None:
        """Draw the keys anew, and let go of those before: Textual 8.2 keeps every key that a footer
        has ever had as a watcher of `compact`, and looks through all of them for each new one."""
        await super().recompose()
        watchers: dict[str, list[tuple[object, object]]] = getattr(self, "__watchers", {})
        keys = set(self.query("*"))
        for watched in watchers.values():
            watched[:] = [(node, callback) for node, callback in watched if node in keys]
