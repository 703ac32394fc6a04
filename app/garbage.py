"""Python's garbage collector, kept from stopping the screen.

Left alone it looks through everything about once a second while a reply is drawn: 50 ms with an
empty chat, 200 ms with a long one, in which no key is heard.
"""

import asyncio
import gc
from time import perf_counter

REST_SECONDS = 20.0
REST = 200.0
"""Rest after a full collection, as a multiple of its time: half a per cent of the time."""
_NEVER = 1_000_000


async def collect_seldom() -> None:
    """Collect what lives long seldom, until cancelled; what is there now is left out for good.

    Young garbage is collected as ever. To be started once all modules are imported.
    """
    usual = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*usual[:2], _NEVER)
    took = 0.0
    try:
        while True:
            await asyncio.sleep(max(REST_SECONDS, REST * took))
            started = perf_counter()
            gc.collect()
            took = perf_counter() - started
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()
