"""The colours of mc-chat: dark, light, and with high contrast.

One calm green for what is alive, amber for attention, red for what failed. All text reaches the
contrast of WCAG AA (4.5) on every ground it stands on, in high contrast that of AAA (7).
"""

from textual.theme import Theme


def _theme(
    name: str,
    *,
    dark: bool,
    grounds: tuple[str, str, str],
    foreground: str,
    quiet: str,
    colours: tuple[str, str, str, str, str],
    cursor: tuple[str, str],
    lines: tuple[str, str],
    footer: str,
) -> Theme:
    """``grounds``: background, surface, panel; ``colours``: primary, secondary, accent, success,
    error; ``cursor``: the chosen line's ground and text; ``lines``: borders without the focus, and
    scroll bars; ``footer``: what its keys do."""
    background, surface, panel = grounds
    primary, secondary, accent, success, error = colours
    return Theme(
        name=name,
        primary=primary,
        secondary=secondary,
        accent=accent,
        success=success,
        warning=accent,
        error=error,
        foreground=foreground,
        background=background,
        surface=surface,
        panel=panel,
        dark=dark,
        text_alpha=1.0,
        variables={
            "block-cursor-background": cursor[0],
            "block-cursor-foreground": cursor[1],
            "block-cursor-text-style": "bold",
            "border": primary,
            "border-blurred": lines[0],
            "footer-background": surface,
            "footer-key-foreground": primary,
            "footer-description-foreground": footer,
            "input-cursor-background": foreground,
            "input-cursor-foreground": background,
            "input-selection-background": f"{primary} 35%",
            "scrollbar": lines[1],
            "scrollbar-hover": lines[0],
            "scrollbar-active": primary,
            "scrollbar-background": background,
            "scrollbar-background-hover": background,
            "scrollbar-background-active": background,
            "scrollbar-corner-color": background,
            "quiet": quiet,
        },
    )


MC_THEME = _theme(
    "mc-chat",
    dark=True,
    grounds=("#11151a", "#171c23", "#222a33"),
    foreground="#dde3ea",
    quiet="#93a0ad",
    colours=("#7fc8b4", "#8fb3e0", "#e6bd73", "#8fd08a", "#ec8181"),
    cursor=("#2d4a48", "#f2f7f6"),
    lines=("#37424e", "#2d3742"),
    footer="#a7b2be",
)
LIGHT_THEME = _theme(
    "mc-light",
    dark=False,
    grounds=("#fafaf7", "#f1f1ec", "#e4e4dd"),
    foreground="#1d242b",
    quiet="#525c66",
    colours=("#0b5f4f", "#27508c", "#7a4a00", "#1f6122", "#a32020"),
    cursor=("#cfe6df", "#0d1f1b"),
    lines=("#a9aca3", "#c9cbc2"),
    footer="#4a535c",
)
CONTRAST_THEME = _theme(
    "mc-contrast",
    dark=True,
    grounds=("#000000", "#000000", "#1c1c1c"),
    foreground="#ffffff",
    quiet="#d6d6d6",
    colours=("#5dffd2", "#9ecbff", "#ffd75e", "#8cff8c", "#ff9d9d"),
    cursor=("#ffffff", "#000000"),
    lines=("#ffffff", "#8a8a8a"),
    footer="#ffffff",
)
THEMES = (MC_THEME, LIGHT_THEME, CONTRAST_THEME)
