"""The line of keys forgets what it no longer shows: it is drawn anew at every reply."""

import gc

import pytest
from textual.widgets._footer import FooterKey

from app.widgets.keys_footer import KeysFooter
from tests.functional.test_turns import talk
from tests.ui import install_model, make_app, wait_for_state, wait_until

pytestmark = pytest.mark.usefixtures("home")


async def test_keys_that_were_shown_once_are_not_kept():
    install_model()
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "hello")
        footer = pilot.app.screen.query_one(KeysFooter)
        await wait_until(pilot, lambda: footer.query(FooterKey))
        for _ in range(5):
            first = footer.query(FooterKey).first()
            pilot.app.screen.refresh_bindings()
            await wait_until(pilot, lambda first=first: not first.is_attached)
        del first
        gc.collect()
        kept = [key for key in gc.get_objects() if type(key) is FooterKey and not key.is_attached]
        assert not kept
        assert all(key.compact for key in footer.query(FooterKey))
