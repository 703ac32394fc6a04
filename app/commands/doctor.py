"""`mc-chat doctor`: what is here, to be pasted into a report."""

import argparse
import dataclasses
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from app import about, models, paths, units
from app.arguments import Commands, add_json, print_json
from app.device_words import memory_words
from app.render import safe_text
from engine.protocol import Device


def add(commands: Commands) -> None:
    """Add the command's options."""
    parser = commands.add_parser("doctor", help="show devices, memory, versions and paths")
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
    return {
        "version": about.version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": about.libraries(),
        "threads": torch.get_num_threads(),
        "devices": [dataclasses.asdict(device) for device in devices],
        "kernels": {device.id: kernels.describe(torch.device(device.id)) for device in devices},
        "paths": {
            "models": str(paths.models_dir()),
            "history": str(paths.history_db()),
            "settings": str(paths.settings_file()),
            "logs": str(paths.log_dir()),
        },
        "disk_free_bytes": shutil.disk_usage(_existing(paths.models_dir())).free,
        "models": [model.name for model in models.installed()],
        "damaged_models": {model.name: model.problem for model in models.damaged()},
        "environment": {
            name: os.environ[name]
            for name in (paths.HOME_VARIABLE, "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
            if name in os.environ
        },
    }


def _existing(path: Path) -> Path:
    """The nearest folder above that is there."""
    return path if path.is_dir() else _existing(path.parent)


def _text(report: dict[str, Any]) -> str:
    versions = report["libraries"].items()
    lines = [
        f"mc-chat {report['version']}, Python {report['python']}, {report['platform']}",
        ", ".join(f"{name} {version or 'absent'}" for name, version in versions),
        f"{report['threads']} threads",
        "",
    ]
    for device in report["devices"]:
        note = f" ({device['note']})" if device["note"] else ""
        words = memory_words(Device(**device))
        kernels = report["kernels"][device["id"]]
        lines.append(f"{device['id']}: {device['name']}{note}, {words}, kernels: {kernels}")
    lines.append("")
    lines += [f"{name}: {path}" for name, path in report["paths"].items()]
    lines.append(f"disk: {units.size(report['disk_free_bytes'])} free for models")
    lines.append(f"installed: {', '.join(report['models']) or 'no model'}")
    lines += [f"damaged: {name}: {problem}" for name, problem in report["damaged_models"].items()]
    lines += [f"{name}={value}" for name, value in report["environment"].items()]
    return "\n".join(lines)
