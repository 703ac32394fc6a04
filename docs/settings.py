"""Write the reference of the settings from the program.

    python -m docs.settings

writes docs/settings.md. Run it again when a setting or a key of the screen changes.
"""

import dataclasses
from pathlib import Path

from app.key_names import ACTIONS
from app.setting_words import EXPLAINED
from app.settings import Settings
from app.settings_template import template
from app.toml_lines import dotted, leaves, written

FILE = Path(__file__).parent / "settings.md"

OPENING = """\
# Settings

Written by `python -m docs.settings` from the program. The settings file is
`~/.config/mc-chat/settings.toml` on Linux and
`~/Library/Application Support/mc-chat/settings.toml` on macOS; `mc-chat settings` prints its place,
what holds and where each value comes from. The first start of the screen writes it with everything
commented out; so does `mc-chat settings init`. `mc-chat settings set KEY VALUE` changes one line
and keeps the rest, comments too.

A variable of the environment goes before the file: `MC_CHAT_` and the setting in capitals, two
underscores for a dot, as in `MC_CHAT_SAMPLING__TOP_K=40`. `MC_CHAT_MODELS` is short for
`MC_CHAT_MODELS_DIR`. `MC_CHAT_HOME` is no setting: it puts models, chats, logs and settings into
one folder.

A mistake is named with its file, line and key, and with what is allowed.

| setting | default | allowed | what it does |
|---|---|---|---|
"""


def settings_text() -> str:
    """A row for each setting, the keys, presets and the file as it is written at first."""
    rows = []
    for key, value in leaves(dataclasses.asdict(Settings())).items():
        explained = EXPLAINED[key[-1]]
        default = "unset" if value is None else f"`{written(value)}`"
        rows.append(f"| `{dotted(key)}` | {default} | {explained.allowed} | {explained.words} |")
    keys = [f"| `keys.{action}` | `{key}` |" for action, key in ACTIONS.items()]
    return "\n".join(
        [
            *rows,
            "\n## Keys\n",
            "Several keys for one action are divided by commas: `f9, ctrl+t`.\n",
            "| setting | usual key |\n|---|---|",
            *keys,
            "\n## Presets\n",
            "A table `[presets.NAME]` holds a system prompt (`system`) and any of the settings of "
            "`[sampling]`;\nwhat it leaves out is as without it. "
            "`mc-chat run --preset NAME` uses it.",
            "\n## The file as it is written at first\n",
            f"```toml\n{template().rstrip()}\n```\n",
        ]
    )


if __name__ == "__main__":
    FILE.write_text(OPENING + settings_text(), encoding="utf-8")
