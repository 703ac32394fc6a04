"""Write the reference of the commands: options from the parser, outputs from real runs.

    python -m docs.commands

writes docs/commands.md. It compresses the demo in a temporary folder and runs every example there,
which takes two minutes. Run it again when a command or an option changes.
"""

import argparse
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from app import cli

FILE = Path(__file__).parent / "commands.md"
SHOWN_LINES = 24
"""Of a longer output this much is shown."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "compress": ("mc-chat compress demo",),
    "run": (
        'mc-chat run demo "Where does Ada live?"',
        'echo "Please remember that my lucky number is 4711." | mc-chat run demo',
    ),
    "chat": (
        "printf '%s\\n' \"Please remember that my lucky number is 4711.\" "
        '"What is my lucky number?" | mc-chat chat --plain demo',
        "echo /help | mc-chat chat --plain demo 2>&1",
    ),
    "chats": (
        "mc-chat chats",
        "mc-chat chats --search lucky",
        "mc-chat chats export last",
        "mc-chat chats export last --format json --out chat.json",
        "mc-chat chats import chat.json",
        "mc-chat chats rm 2",
        "mc-chat chats restore 2",
    ),
    "plan": ("mc-chat plan --vram 24GiB",),
    "watch": ("mc-chat watch demo",),
    "models": ("mc-chat models", "mc-chat models --json"),
    "info": ("mc-chat info demo",),
    "verify": ("mc-chat verify demo",),
    "prune": ("mc-chat prune demo",),
    "export": ("mc-chat export demo --format hqq",),
    "import": ("mc-chat import demo-hqq --out demo-again",),
    "rm": ("mc-chat rm demo-again",),
    "eval": (
        "mc-chat eval demo --tasks skills",
        "mc-chat eval demo --tasks needle --against demo --pruning odp --token-by-token",
    ),
    "bench": ("mc-chat bench demo --prompt 64 --tokens 32",),
    "settings": (
        "mc-chat settings init",
        "mc-chat settings set sampling.top_k 40",
        "MC_CHAT_CONTEXT=2048 mc-chat settings",
        "mc-chat settings unset sampling.top_k",
    ),
    "doctor": ("mc-chat doctor",),
    "completion": ("mc-chat completion bash",),
}
"""In an order in which they can be run; by the command."""

UNSHOWN: dict[str, tuple[str, ...]] = {
    "pull": ("mc-chat pull OWNER/NAME",),
    "publish": ("mc-chat publish demo OWNER/NAME",),
}
"""What needs the hub is not run."""

SEE = {
    "compress": "[how compression is done](compressing.md)",
    "prune": "[pruning](pruning.md)",
    "eval": "[what each figure is](evaluation.md)",
    "pull": "[the hub](hub.md)",
    "publish": "[the hub](hub.md)",
    "settings": "[all settings](settings.md)",
}

MISTAKES = (
    'mc-chat run nothing "Hello"; echo "exit code $?"',
    'mc-chat run demo --top-p 2 "Hello"; echo "exit code $?"',
)

OPENING = """\
# Commands

Every command, its options, and what an example really prints: written by
`python -m docs.commands`, which runs them all on the demo. Without a command `mc-chat` opens the
screen. What is not given is as in the [settings](settings.md).

- **Results go to standard output, everything else to standard error.** Progress is a line that is
  rewritten on a terminal; elsewhere, and where `TERM` is `dumb`, a line at most every ten seconds.
- **`--json`** prints the result as one JSON object. A failure prints nothing on standard output,
  with `--json` too.
- **What a model says cannot steer a terminal**: control characters, escape sequences and what turns
  the direction of writing around are taken out, of pipes as well.
- **A failure is one line** and says what to do. Exit codes: 0 done, 1 failed, 2 wrong usage,
  130 interrupted.
"""


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = run_examples(Path(folder))
    FILE.write_text("\n".join([OPENING, *commands_text(outputs)]), encoding="utf-8")


# --- the examples ---------------------------------------------------------------------------------


def run_examples(folder: Path) -> dict[str, str]:
    """What each example prints, by its line."""
    home = folder / "ada"
    program = folder / "bin" / "mc-chat"
    home.mkdir()
    program.parent.mkdir()
    python = shlex.quote(sys.executable)
    program.write_text(f'#!/bin/sh\nexec {python} -m app.cli "$@"\n')
    program.chmod(0o755)
    kept = {name: os.environ[name] for name in ("LANG", "PATH") if name in os.environ}
    environment = kept | {
        "HOME": str(home),
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(FILE.parents[1]),
    }
    lines = [line for several in EXAMPLES.values() for line in several]
    outputs = {}
    for line in (*lines, *MISTAKES):
        print(line, file=sys.stderr)
        is_mistake = line in MISTAKES
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if is_mistake else None,
            text=True,
            check=True,
        )
        said = done.stdout.replace(str(folder), "/home")
        outputs[line] = said.replace(platform.platform(), platform.system())
    return outputs


def console(lines: tuple[str, ...], outputs: dict[str, str]) -> Iterator[str]:
    """Examples as a terminal shows them."""
    yield "```console"
    for line in lines:
        yield f"$ {line}"
        said = outputs.get(line, "").rstrip("\n").split("\n")
        if said != [""]:
            yield from (text.rstrip() for text in said[:SHOWN_LINES])
        if len(said) > SHOWN_LINES:
            yield f"... ({len(said) - SHOWN_LINES} lines more)"
    yield "```"
    yield ""


# --- the commands ---------------------------------------------------------------------------------


def commands_text(outputs: dict[str, str]) -> Iterator[str]:
    """All commands, and what mistakes look like."""
    yield from console(MISTAKES, outputs)
    root = cli.parser()
    examples = EXAMPLES | UNSHOWN
    for name, command, words in subcommands(root):
        yield f"## {name}\n"
        yield f"{sentence(command.description or words)}\n"
        if name in SEE:
            yield f"See {SEE[name]}.\n"
        yield from console(examples[name], outputs)
        yield from arguments_text(f"mc-chat {name}", command)


def arguments_text(line: str, command: argparse.ArgumentParser) -> Iterator[str]:
    """The line of a command, its arguments, and the commands below it."""
    positionals = [action for action in command._actions if not action.option_strings]
    options = [action for action in command._actions if action.option_strings]
    names = [positional_text(action) for action in positionals]
    names += [option_names(action)[0] for action in options if action.required]
    yield f"`{' '.join([line, *names])}`\n"
    formatter = command._get_formatter()
    for action in (*positionals, *options):
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction):
            continue
        words = formatter._expand_help(action) if action.help else ""
        shown = ", ".join(f"`{name}`" for name in option_names(action) or [str(action.metavar)])
        yield f"- {shown}: {words}" if words else f"- {shown}"
    yield ""
    for name, below, words in subcommands(command):
        yield f"### {line.removeprefix('mc-chat ')} {name}\n"
        yield f"{sentence(below.description or words)}\n"
        yield from arguments_text(f"{line} {name}", below)


def subcommands(
    command: argparse.ArgumentParser,
) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """Each with its parser and its words of help."""
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                yield choice.dest, action.choices[choice.dest], choice.help or ""


def positional_text(action: argparse.Action) -> str:
    """As a usage line has it."""
    name = str(action.metavar or action.dest) + (" ..." if action.nargs == "*" else "")
    optional = action.nargs in ("?", "*") or (
        isinstance(action, argparse._SubParsersAction) and not action.required
    )
    return f"[{name}]" if optional else name


def option_names(action: argparse.Action) -> list[str]:
    """Each name of an option with its value; none for what is no option."""
    if action.nargs == 0:
        value = ""
    elif action.choices is not None:
        value = f" {'|'.join(map(str, action.choices))}"
    else:
        value = f" {action.metavar or action.dest.upper()}"
    more = " ..." if action.nargs == "+" else ""
    return [f"{name}{value}{more}" for name in action.option_strings]


def sentence(words: str) -> str:
    """With a capital letter and a full stop."""
    return words[0].upper() + words[1:].rstrip(".") + "."


if __name__ == "__main__":
    main()
