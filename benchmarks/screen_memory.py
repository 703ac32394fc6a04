"""What the screen's process holds after many replies: its resident memory must not grow.

    python -m benchmarks.screen_memory [--quick] [--json]

The real program in a pseudo-terminal. Two stories: the real engine with the demo, a new chat after
every ten replies; and one chat of all replies, which a scripted engine gives (the demo's context
would be full), each of them with a list, a table and a fence. After 20 replies the screen's window
of 40 messages is full: what is added from there on should not be.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from app.child import module_command
from app.tui import McChatApp
from assets import DEMO_DIR
from benchmarks.machine import machine
from benchmarks.screen_pauses import give_replies
from benchmarks.terminal import MC_CHAT, Terminal, terminal

REPLY = """\
A **reply** of some length, with [a link](http://example.org), number

1. one
2. two

| expert | bits |
|---|---|
| 0 | 3 |
| 1 | 2 |

```python
def route(scores):
    return sorted(scores)[-2:]
```

and an end.
"""
QUESTIONS = ("Where does Karin live?", "Tell me a story.", "Show me a function for a factorial.")
CHAT_LENGTH = 10
PAUSE_SECONDS = 0.5
"""Between a reply and the next question: nobody asks faster."""
THIS = "benchmarks.screen_memory"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a quarter of the replies")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--screen", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--engine", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        give_replies(lambda question: REPLY)
    elif options.screen:
        McChatApp(Path("scripted"), worker_command=module_command(THIS, "--engine")).run()
    else:
        marks = (5, 12, 25, 50) if options.quick else (20, 50, 100, 150, 200)
        with tempfile.TemporaryDirectory() as home:
            show(measure_all(home, marks), marks, options.json)


def measure_all(home: str, marks: Sequence[int]) -> dict[str, list[int]]:
    """Bytes after so many replies, by story."""
    demo = Path(home, "models", "demo")
    job = [sys.executable, "-m", "compress.job", str(DEMO_DIR), "--out", str(demo)]
    subprocess.run(job, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return {
        "the demo, chats of ten replies": measure([*MC_CHAT, "chat", "demo"], home, marks, True),
        "one long chat": measure([sys.executable, "-m", THIS, "--screen"], home, marks, False),
    }


def measure(command: Sequence[str], home: str, marks: Sequence[int], new_chats: bool) -> list[int]:
    """Talk, and read the process's resident bytes after each of ``marks`` replies."""
    held = []
    with terminal(command, {"MC_CHAT_HOME": home}) as screen:
        screen.wait_for("ready")
        screen.rest(2.0)
        for number in range(1, marks[-1] + 1):
            if new_chats and number % CHAT_LENGTH == 0:
                screen.press("\x0e")  # Ctrl+N
                screen.rest(PAUSE_SECONDS)
            screen.forget()
            screen.press(f"{QUESTIONS[number % len(QUESTIONS)]}\r")
            screen.wait_for("% pruned")  # below the reply, at its end
            screen.rest(PAUSE_SECONDS)
            if number in marks:
                held.append(resident_bytes(screen))
    return held


def resident_bytes(screen: Terminal) -> int:
    """Of the program in a terminal, without its children."""
    status = Path("/proc", str(screen.pid), "status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return 1024 * int(line.split()[1])


def show(rows: dict[str, list[int]], marks: Sequence[int], as_json: bool) -> None:
    """Print them."""
    if as_json:
        print(json.dumps({"machine": machine(), "replies": list(marks), "bytes": rows}))
        return
    print(f"{machine()}; resident MB of the screen's process\n")
    print(f"| after so many replies | {' | '.join(map(str, marks))} |\n|---{'|---' * len(marks)}|")
    for name, held in rows.items():
        print(f"| {name} | {' | '.join(f'{count / 1e6:.1f}' for count in held)} |")


if __name__ == "__main__":
    main()
