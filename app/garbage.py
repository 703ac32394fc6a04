"""Python's garbage collector, kept from stopping the screen.

Left alone it looks through everything about once a second while a reply is drawn: 50 ms with an
empty chat, 200 ms with a long one, in which no key is heard.
"""

import asyncio
import gc
from time import thread_time

from textual._styles_cache import StylesCache

LOOK_SECONDS = 0.25
MUCH = 5
"""Collections of the middle generation, 7,000 new objects or more each, before a full one."""
REST = 20.0
"""Least rest after a full collection, as a multiple of its time: at most a twentieth of it all."""
_NEVER = 1_000_000


async def collect_seldom() -> None:
    """Collect what has lived long when much has gathered, until cancelled; what is there now is
    left out for good.

    Young garbage is collected as ever. To be started once all modules are imported.
    """
    usual = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*usual[:2], _NEVER)
    took = 0.0
    try:
        while True:
            await asyncio.sleep(max(LOOK_SECONDS, REST * took))
            took = 0.0
            # Textual 8.2 keeps the last thousand widgets' drawn lines in there, gone or not.
            StylesCache.get_inner_outer.cache_clear()
            if gc.get_count()[2] >= MUCH:
                started = thread_time()
                gc.collect()
                took = thread_time() - started
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()
