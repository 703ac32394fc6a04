"""The keys that work on the screen that one looks at, as the page of keys lists them first."""

from textual.binding import Binding
from textual.dom import DOMNode
from textual.screen import Screen

from app.key_words import key_words

_OURS = __name__.partition(".")[0]


def keys_here(screen: Screen[object]) -> list[tuple[str, str]]:
    """Keys and what they do, those that something else than the screen has first. Only what our
    own widgets bind: that the arrows move a cursor says nothing."""
    found: dict[str, list[str]] = {}
    for node, binding, enabled, _ in screen.active_bindings.values():
        bound = (binding.action, binding.description)
        if enabled and node is not screen.app and bound in _bound_by_us(node):
            keys = found.setdefault(binding.description, [])
            keys.append(binding.key_display or key_words(binding.key))
    return [("  ".join(dict.fromkeys(keys)), what) for what, keys in found.items()]


def _bound_by_us(node: DOMNode) -> set[tuple[str, str]]:
    """The actions that the node's classes of this program have keys for, and their words."""
    classes = [cls for cls in type(node).__mro__ if cls.__module__.partition(".")[0] == _OURS]
    bindings = [binding for cls in classes for binding in cls.__dict__.get("BINDINGS", ())]
    made = [each if isinstance(each, Binding) else Binding(*each) for each in bindings]
    return {(binding.action, binding.description) for binding in made}
