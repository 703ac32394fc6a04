"""All text can be read: WCAG 2's contrast, computed here from its definition."""

import itertools

import pytest
from textual.color import Color
from textual.theme import Theme

from app.setting_words import THEMES as NAMES
from app.theme import CONTRAST_THEME, THEMES

AA, AAA = 4.5, 7.0


def luminance(color: str) -> float:
    channels = [channel / 255 for channel in Color.parse(color).rgb]
    red, green, blue = (
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
        for channel in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_black_on_white_has_the_most_contrast_there_is():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_text_reaches_the_contrast_of_its_level(theme: Theme):
    least = AAA if theme is CONTRAST_THEME else AA
    texts = [theme.foreground, theme.primary, theme.secondary, theme.accent, theme.success]
    texts += [theme.error, theme.variables["quiet"], theme.variables["footer-key-foreground"]]
    grounds = (theme.background, theme.surface, theme.panel)
    for text, ground in itertools.product(texts, grounds):
        assert contrast(text, ground) >= least, (text, ground)
    chosen = theme.variables["block-cursor-background"]
    for text in (theme.variables["block-cursor-foreground"],):
        assert contrast(text, chosen) >= least
    footer = theme.variables["footer-description-foreground"]
    assert contrast(footer, theme.variables["footer-background"]) >= least
    assert contrast(theme.background, theme.variables["quiet"]) >= least, "inverted labels"


def test_the_settings_know_our_themes():
    assert [theme.name for theme in THEMES] == list(NAMES[: len(THEMES)])
