"""Text from a model, made safe for a terminal. Free of torch; screen and commands share it."""

_KEPT_CONTROLS = "\n\t"
_C0_AND_DELETE = [*range(0x20), 0x7F]
_C1 = range(0x80, 0xA0)
_BIDI = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]
"""Embeddings, overrides and isolates: they show text in another order than it is read, and one that
is left open reaches into the lines behind it. The marks that scripts need (200E, 200F) stay."""
_SURROGATES = range(0xD800, 0xE000)  # cannot be written as UTF-8

_REMOVED: dict[int, None] = dict.fromkeys(
    code
    for code in (*_C0_AND_DELETE, *_C1, *_BIDI, *_SURROGATES)
    if chr(code) not in _KEPT_CONTROLS
)


def safe_text(text: str) -> str:
    """Drop every character that could steer a terminal; line breaks and tabs stay.

    Without its escape character a sequence is plain text. Character by character, so that
    ``safe_text(a + b) == safe_text(a) + safe_text(b)`` and a stream needs no state.
    """
    return text.translate(_REMOVED)
