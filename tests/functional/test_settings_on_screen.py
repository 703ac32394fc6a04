"""What the settings change on the screen: colours, characters, keys."""

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from app import paths, settings
from app.screens.help import HelpScreen
from app.theme import LIGHT_THEME
from app.widgets.gauges import Gauges
from app.widgets.keys_footer import KeysFooter
from app.widgets.meters import PruningGauge
from tests.fakes import fake_job
from tests.ui import install_model, make_app, wait_for_state, wait_until

SIZE = (120, 40)


@pytest.fixture(autouse=True)
def file(home: Path) -> Path:
    install_model()
    home.mkdir(exist_ok=True)
    return paths.settings_file()


def footer(pilot: Pilot[None]) -> list[tuple[str, str]]:
    keys = pilot.app.screen.query_one(KeysFooter).keys
    return [(key.display, key.description) for key in keys]


def lines(pilot: Pilot[None]) -> str:
    return "\n".join(strip.text for strip in pilot.app.screen._compositor.render_strips())


async def test_a_key_that_was_changed_works_and_is_shown_everywhere(file: Path):
    file.write_text('[keys]\ngauges = "f11, alt+g"\n')
    async with make_app().run_test(size=SIZE) as pilot:
        await wait_for_state(pilot, "ready")
        gauges = pilot.app.screen.query_one(Gauges)
        await pilot.press("f3")
        assert gauges.display
        await pilot.press("f11")
        assert not gauges.display
        await pilot.press("alt+g")
        assert gauges.display
        assert ("F11", "Gauges") in footer(pilot)
        await pilot.press("f1")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, HelpScreen))
        page = str(pilot.app.screen.query_one(Static).content)
        assert ["F11", "Alt+G", "show", "or", "hide"] in [
            line.split()[:5] for line in page.splitlines()
        ]


async def test_the_theme_is_the_settings_and_a_chosen_one_is_kept(file: Path):
    file.write_text(f'# mine\ntheme = "{LIGHT_THEME.name}"\n')
    async with make_app().run_test(size=SIZE) as pilot:
        await wait_for_state(pilot, "ready")
        assert pilot.app.theme == LIGHT_THEME.name
        await pilot.app.run_action("app.use_theme('mc-contrast')")
        await wait_until(pilot, lambda: settings.load(file).theme == "mc-contrast")
        assert file.read_text().startswith("# mine\n")
        await pilot.app.run_action("app.use_theme('none')")
        assert pilot.app.theme == "mc-contrast"


async def test_ascii_draws_nothing_else(file: Path):
    file.write_text("ascii = true\n")
    async with make_app().run_test(size=SIZE) as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.pause()
        assert "mc-chat" in lines(pilot)
        assert lines(pilot).isascii()


async def test_no_color_shows_no_colour(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", "1")
    async with make_app().run_test(size=SIZE) as pilot:
        await wait_for_state(pilot, "ready")
        strips = pilot.app.screen._compositor.render_strips()
        colours = {
            tuple(colour.get_truecolor())
            for strip in strips
            for _, style, _ in strip
            if style
            for colour in (style.color, style.bgcolor)
            if colour
        }
        assert colours
        assert all(red == green == blue for red, green, blue in colours)


async def test_the_palette_lists_our_commands_and_runs_them():
    async with make_app().run_test(size=SIZE) as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.press("ctrl+p")
        await wait_until(pilot, lambda: pilot.app.screen.query("CommandInput"))
        await pilot.press(*"gauges")
        await wait_until(pilot, lambda: "F3  /gauges" in lines(pilot))
        await pilot.press("enter", "enter")
        await wait_until(pilot, lambda: pilot.app.screen.query(Gauges))
        await wait_until(pilot, lambda: not pilot.app.screen.query_one(Gauges).display)


async def test_a_model_that_has_learned_no_otp_prunes_as_it_can(file: Path):
    file.write_text('pruning = "otp"\n')
    install_model("otp", otp=fake_job.OTP)
    install_model("plain")
    async with make_app(model=paths.models_dir() / "otp").run_test(size=SIZE) as pilot:
        await wait_for_state(pilot, "ready")

        def shows(words: str) -> bool:
            return words in str(pilot.app.screen.query_one(PruningGauge).render())

        await wait_until(pilot, lambda: shows("OTP on"))
        await pilot.app.run_action("screen.load_model('plain')")
        await wait_until(pilot, lambda: shows("ODP on"))
        (told,) = pilot.app._notifications
        assert "plain has learned no OTP" in told.message


async def test_strength_goes_by_key_and_by_word():
    async with make_app().run_test(size=SIZE) as pilot:
        await wait_for_state(pilot, "ready")

        def shows(words: str) -> bool:
            return words in str(pilot.app.screen.query_one(PruningGauge).render())

        await wait_until(pilot, lambda: shows("ODP on"))
        await pilot.press("f9", "f9")
        await wait_until(pilot, lambda: shows("ODP ×1.5"))
        await pilot.press("f2")
        await wait_until(pilot, lambda: shows("no pruning"))
        await pilot.press("f8")
        await wait_until(pilot, lambda: shows("ODP ×1.25"))
        await pilot.app.run_action("screen.prune_as('0.5')")
        await wait_until(pilot, lambda: shows("ODP ×0.5"))
        await pilot.app.run_action("screen.prune_as('nonsense')")
        await pilot.pause()
        assert shows("ODP ×0.5")
