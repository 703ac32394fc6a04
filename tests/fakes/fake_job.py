"""A scripted compression: speaks `compress.progress`, and stops cleanly when it is asked to.

Arguments as for `compress.job`; `--story` says how it ends: "done" writes a model that can be
listed, "fail" runs out of disk once and works when tried again, "offline" loses the network,
"memory" finds the device full, "hold" and "downloads" wait to be stopped, or until NAME.go is
there, "anew" wants --restart, "dies" is killed, "measured" compares its model with the original.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from compress.job import Teller, take_output
from compress.progress import Done, JobFailed, Progress, Started

LAYERS = 4


def steps(teller: Teller, until: float) -> None:
    for layer in range(LAYERS):
        for index, stage in enumerate(("calibrate", "score", "allocate", "quantize", "write")):
            fraction = (layer + index / 5) / LAYERS
            if fraction > until:
                return
            left = None if fraction == 0 else 40 * (1 - fraction)
            message = f"{stage}: expert 8 of 8"
            teller.tell(Progress(stage, layer, LAYERS, fraction, 40 * fraction, left, message))


def wait(out: Path) -> None:
    while not out.with_suffix(".go").exists():
        time.sleep(0.02)


QUALITY = {
    "stream_errors": [0.05, 0.062, 0.08, 0.121],
    "agreement": {
        "text": "demo corpus, held-out split",
        "held_out": True,
        "tokens": 8176,
        "same_token": 0.9755,
        "perplexity": 1.7,
        "original_perplexity": 1.6,
    },
}


OTP = {"price": 0.01, "skipped": 0.4, "calibration": "demo corpus", "samples": 8, "window": 256}


def write_model(
    folder: Path, quality: dict[str, Any] | None = None, otp: dict[str, Any] | None = None
) -> None:
    layer = {
        "expert_bits": [3, 3, 2, 2],
        "odp_threshold": 0.4,
        "odp_quantile": 0.1,
        "frequency": [0.25] * 4,
        "routing_weight": [0.25] * 4,
        "errors": [[0.3, 0.2, 0.1]] * 4,
        "stream_norm": 8.0,
    }
    manifest = {
        "format_version": 1,
        "name": folder.name,
        "source": {"repository": "demo", "revision": "1", "sha256": "0" * 64},
        "recipe": {
            "bits": 2.5,
            "quantizer": "gptq",
            "allocator": "pmq",
            "group_size": 128,
            "calibration": "demo",
            "samples": 8,
            "window": 256,
            "seed": 0,
            "alpha": 1.0,
            "beta": 1.0,
            "gamma": 1.0,
        },
        "layers": [layer] * LAYERS,
        "sizes": {
            "expert_code_bytes": 1000,
            "expert_metadata_bytes": 100,
            "dense_bytes": 500,
            "expert_weights": 4000,
            "total_weights": 6000,
        },
        "files": {},
    }
    if quality is not None:
        manifest["quality"] = quality
    if otp is not None:
        manifest["otp"] = otp
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mc.json").write_text(json.dumps(manifest))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("--bits", type=float)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--restart", action="store_true")
    parser.add_argument("--story", default="done")
    options, _ = parser.parse_known_args()
    teller = Teller(take_output())

    def stop(*_: object) -> None:
        teller.tell(
            JobFailed("Interrupted", "stopped after layer 2; run the same command to go on")
        )
        sys.exit(130)

    signal.signal(signal.SIGTERM, stop)
    teller.tell(Started(os.getpid(), options.source, options.bits, str(options.out)))
    teller.tell(Progress("check", 0, LAYERS, 0.0, 0.0, None, "reading the original"))
    if options.story == "anew" and not options.restart:
        teller.tell(JobFailed("UsageError", "an unfinished run was begun with other options"))
        sys.exit(2)
    if options.story == "dies":
        steps(teller, until=0.55)
        os.kill(os.getpid(), signal.SIGKILL)
    if options.story == "hold":
        steps(teller, until=0.55)
        wait(options.out)
    if options.story in {"offline", "downloads"}:
        steps(teller, until=0.3)
        message = "shard 3 of 19, 1.2 of 4.9 GB, 85 MB/s"
        teller.tell(Progress("download", 1, LAYERS, 0.31, 12.0, 30.0, message))
    if options.story == "downloads":
        wait(options.out)
    if options.story == "offline":
        teller.tell(
            JobFailed("NetworkError", "the connection was lost; run the same command again")
        )
        sys.exit(1)
    if options.story == "memory":
        steps(teller, until=0.3)
        teller.tell(JobFailed("DoesNotFitError", "the device ran out of memory"))
        sys.exit(1)
    failed_before = options.out.with_suffix(".failed")
    if options.story == "fail" and not failed_before.exists():
        steps(teller, until=0.3)
        failed_before.parent.mkdir(parents=True, exist_ok=True)
        failed_before.touch()
        teller.tell(
            JobFailed(
                "DiskFullError", "the disk is full: 1.2 GB more are needed in the model folder"
            )
        )
        sys.exit(1)
    steps(teller, until=1.0)
    write_model(options.out, QUALITY if options.story == "measured" else None)
    (options.out / "arguments").write_text(" ".join(sys.argv[3:]))  # without the story
    teller.tell(Done(str(options.out)))


if __name__ == "__main__":
    main()
