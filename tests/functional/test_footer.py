"""The line of keys: what must be seen is seen, however many keys there are."""

import pytest
from textual.pilot import Pilot

from app.widgets.keys_footer import KeysFooter
from app.widgets.messages import ModelMessage
from app.widgets.prompt import Prompt
from tests.ui import install_model, make_app, wait_for_state, wait_until

pytestmark = pytest.mark.usefixtures("home")


def bottom_line(pilot: Pilot[None]) -> str:
    strips = pilot.app.screen._compositor.render_strips()
    assert pilot.app.screen.query_one(KeysFooter).region.y == len(strips) - 1
    return "".join(segment.text for segment in strips[-1])


@pytest.mark.parametrize("width", [60, 80])
async def test_stop_and_the_way_to_all_keys_are_seen_while_a_reply_runs(width: int):
    install_model()
    async with make_app().run_test(size=(width, 24)) as pilot:
        await wait_for_state(pilot, "ready")
        prompt = pilot.app.screen.query_one(Prompt)
        for text in ("code", "hold on"):
            prompt.focus()
            prompt.text = text
            await pilot.press("enter")
            await wait_until(pilot, lambda: prompt.text == "")
            await wait_for_state(pilot, "ready" if text == "code" else "writing")
        await pilot.pause()
        for key in ("tab", "up", "up"):
            line = bottom_line(pilot)
            assert "Esc Stop" in line
            assert line.rstrip().endswith("? Keys")
            await pilot.press(key)
            await pilot.pause()
        assert len(pilot.app.screen.query(ModelMessage)) == 2
        assert "Copy code" in bottom_line(pilot)


async def test_gauges_are_hidden_from_the_start_where_the_settings_say_so(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("MC_CHAT_SHOW_GAUGES", "false")
    install_model()
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_until(pilot, lambda: pilot.app.screen.query("Gauges"))
        assert not pilot.app.screen.query_one("Gauges").display
        await pilot.press("f3")
        assert pilot.app.screen.query_one("Gauges").display
