"""`mc-chat doctor`: what is here, to be pasted into a report.

Nothing private is in it: no text of a chat or a prompt, and the user's home is ``~``.
"""

import argparse
import dataclasses
import os
import platform
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

from app import about, models, paths, settings, toml_lines, units
from app.arguments import Commands, add_json, print_json
from app.device_words import memory_words
from app.history import has_index
from app.render import safe_text
from engine.errors import UsageError
from engine.protocol import Device

_PRIVATE = ("system",)
"""Settings whose text is nobody's business."""
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "HF_HUB_OFFLINE")
_TERMINAL_VARIABLES = ("TERM", "COLORTERM", "NO_COLOR", "TERM_PROGRAM", "TMUX", "SSH_TTY", "LANG")


def add(commands: Commands) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "doctor",
        help="show what a bug report needs",
        description="Show devices, versions, settings, the terminal and where things are: what a "
        "bug report needs. Nothing that was said in a chat is in it, nor the user's name.",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the report."""
    report = _report()
    if options.json:
        print_json(report)
    else:
        print(safe_text(_text(report)))


def _report() -> dict[str, Any]:
    import torch

    from engine import kernels
    from engine.devices import detect

    devices = detect()
    report: dict[str, Any] = {
        "version": about.version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": about.libraries(),
        "sqlite": {"version": sqlite3.sqlite_version, "search_index": has_index()},
        "threads": torch.get_num_threads(),
        "devices": [dataclasses.asdict(device) for device in devices],
        "kernels": {device.id: kernels.describe(torch.device(device.id)) for device in devices},
        "dense": {device.id: _dense(device) for device in devices if device.kind == "cuda"},
        "terminal": _terminal(),
        "paths": {
            "settings": paths.shown(paths.settings_file()),
            "history": paths.shown(paths.history_db()),
            "logs": paths.shown(paths.log_dir()),
        },
        "logs": {path.name: path.stat().st_size for path in sorted(paths.log_dir().glob("*.log*"))},
        "environment": {
            name: paths.shown(os.environ[name])
            for name in (paths.HOME_VARIABLE, *_VARIABLES)
            if name in os.environ
        },
    }
    try:
        _add_models(report)
    except UsageError as error:  # without the settings it is not known where models are
        report["problem"] = _short(str(error))
    return report


def _dense(device: Device) -> list[str]:
    """Whose 4-bit products earlier loads have found the fastest on a GPU, and why."""
    import torch

    try:
        from engine.decoding.dense import remembered
    except ImportError:  # without triton nothing is tried
        return []
    return remembered(torch.device(device.id))


def _terminal() -> dict[str, Any]:
    from rich.console import Console

    size = shutil.get_terminal_size()
    return {
        "is_terminal": sys.stdout.isatty(),
        "columns": size.columns,
        "lines": size.lines,
        "encoding": sys.stdout.encoding,
        "colors": Console(file=sys.stdout).color_system,
        "environment": {
            name: "set" if name in ("TMUX", "SSH_TTY") else os.environ[name]
            for name in _TERMINAL_VARIABLES
            if name in os.environ
        },
    }


def _add_models(report: dict[str, Any]) -> None:
    """What the settings change, and the models. Raises UsageError for settings with mistakes."""
    found = settings.read(paths.settings_file())
    values = toml_lines.leaves(dataclasses.asdict(found.settings))
    report["settings"] = {
        toml_lines.dotted(key): {"value": _shown(key, values[key]), "from": str(origin)}
        for key, origin in found.origins.items()
        if key in values
    }
    folder = paths.models_dir()
    report["paths"]["models"] = paths.shown(folder)
    report["disk_free_bytes"] = shutil.disk_usage(_existing(folder)).free
    report["models"] = [model.name for model in models.installed()]
    report["damaged_models"] = {model.name: _short(model.problem) for model in models.damaged()}


def _shown(key: toml_lines.Path, value: Any) -> Any:
    if key[-1] in _PRIVATE:
        return f"({len(value)} characters)"
    return paths.shown(value) if key[-1] == "models_dir" else value


def _short(text: str) -> str:
    """A message in which paths may stand."""
    return text.replace(str(Path.home()), "~")


def _existing(path: Path) -> Path:
    """The nearest folder above that is there."""
    return path if path.is_dir() else _existing(path.parent)


def _text(report: dict[str, Any]) -> str:
    versions = report["libraries"].items()
    sqlite = report["sqlite"]
    lines = [
        f"mc-chat {report['version']}, Python {report['python']}, {report['platform']}",
        ", ".join(f"{name} {version or 'absent'}" for name, version in versions),
        f"SQLite {sqlite['version']}, {'with' if sqlite['search_index'] else 'without'} FTS5",
        f"{report['threads']} threads",
        "",
    ]
    for device in report["devices"]:
        note = f" ({device['note']})" if device["note"] else ""
        words = memory_words(Device(**device))
        kernels = report["kernels"][device["id"]]
        lines.append(f"{device['id']}: {device['name']}{note}, {words}, kernels: {kernels}")
        lines += [f"  {line}" for line in report["dense"].get(device["id"], ())]
    lines += ["", _terminal_text(report["terminal"])]
    lines += [f"{name}={value}" for name, value in report["terminal"]["environment"].items()]
    lines += [f"{name}={value}" for name, value in report["environment"].items()]
    lines += ["", *(f"{name}: {path}" for name, path in report["paths"].items())]
    lines += [f"log: {name}, {units.size(size)}" for name, size in report["logs"].items()]
    if "problem" in report:
        return "\n".join([*lines, f"problem: {report['problem']}"])
    lines.append(f"disk: {units.size(report['disk_free_bytes'])} free for models")
    lines.append(f"installed: {', '.join(report['models']) or 'no model'}")
    lines += [f"damaged: {name}: {problem}" for name, problem in report["damaged_models"].items()]
    lines.append("settings:" if report["settings"] else "settings: all as they come")
    lines += [
        f"{name} = {one['value']} ({one['from']})" for name, one in report["settings"].items()
    ]
    return "\n".join(lines)


def _terminal_text(terminal: dict[str, Any]) -> str:
    if not terminal["is_terminal"]:
        return f"no terminal, encoding {terminal['encoding']}"
    return (
        f"terminal: {terminal['columns']} x {terminal['lines']}, encoding {terminal['encoding']}, "
        f"colours: {terminal['colors'] or 'none'}"
    )
