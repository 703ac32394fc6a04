"""A scripted engine: speaks `engine.protocol` over pipes, computes nothing, starts at once.

What it does depends on the words of the last user message, so that one chat can hold many stories:

- "crash" dies in the middle of a word; "hold" writes a little and waits for Cancel;
- "full" and "memory" fail; "grow" fills the context, "cut" reaches the token limit;
- "differ" answers otherwise where nothing is pruned;
- "nasty" answers with markup and terminal controls, "code" with a long fence, "many" with 10,000
  tokens, "pieces" cuts fences and characters of several bytes anywhere.

A reply that it is to go on with gets `MORE`.

A model whose folder is named "broken" fails to load.
`--devices none` is a slow machine that never answers Detect, `--devices dies` ends instead of
answering.
"""

import argparse
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engine import protocol
from engine.protocol import Device, Generate, Memory, Message, Meters

DEVICES = (
    Device("NVIDIA GeForce RTX 3090", "cuda", "cuda:0", 25_300_000_000, 24_100_000_000),
    Device("AMD Ryzen 9 5950X, 16 cores", "cpu", "cpu", 67_400_000_000, 51_900_000_000),
)
ODD_DEVICES = (
    Device("Box of unknown size", "cpu", "cpu", 0, 0),
    Device(
        "NVIDIA GeForce GTX 1080 Ti",
        "cuda",
        "cuda:0",
        11_700_000_000,
        0,
        problem="its compute capability 6.1 is too old for this torch, which needs 7.5",
    ),
)
SMALL_DEVICES = (Device("Old laptop, 2 cores", "cpu", "cpu", 4_000_000_000, 1_900_000_000),)
SETS = {"good": DEVICES, "small": SMALL_DEVICES, "odd": ODD_DEVICES}
MEMORY = Memory(
    weights=17_420_000_000,
    kv_cache=1_074_000_000,
    workspace=612_000_000,
    free=4_980_000_000,
    total=25_300_000_000,
)
CONTEXT = 8192
TOTAL_PARAMS = 46_702_792_704

ANSWER = """\
A **mixture of experts** keeps many small networks and asks only two of them per token.

1. The *router* scores all eight experts.
2. The best two answer; their answers are weighted and added.
3. Pruning skips the second one where it hardly counts.

```python
def route(scores):
    best, second = sorted(scores)[-2:]
    return [best] if second < 0.3 * best else [best, second]
```

So a token passes through far fewer parameters than the model has.
"""
MORE = "And there is more to say.\n"
PIECES = """\
Grüße 🙂🙂 an 東京:

````md
```python
print('ß')
```
````

| a | b |
|---|---|
| 1 | 2 |
"""
NASTY = (
    "[bold red]not markup[/] <b>not html</b> "
    "\x1b[31mnot red\x1b[0m \x07\x9b2J [@click=app.quit]x[/]\n"
)


class Reader:
    """Requests, read by a thread so that Cancel is heard in the middle of a reply."""

    def __init__(self) -> None:
        self.cancelled: set[int] = set()
        self.ended = False
        self.pruning: protocol.PruningMode = "odp"
        self.requests: queue.SimpleQueue[protocol.Request] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            request = protocol.decode_request(line)
            if isinstance(request, protocol.Cancel):
                self.cancelled.add(request.id)
            elif isinstance(request, protocol.SetPruning):
                self.pruning = request.mode
            else:
                self.requests.put(request)
        self.ended = True
        self.requests.put(protocol.Shutdown())


def emit(event: protocol.Event) -> None:
    print(protocol.encode(event), flush=True)


def meters(reader: Reader, tokens: int, prompt: int) -> Meters:
    """Figures that a test can predict: they depend on the mode and the count only."""
    wave = (0.28, 0.34, 0.31, 0.37, 0.25, 0.33, 0.3, 0.29)[tokens // 4 % 8]
    pruned = wave if reader.pruning == "odp" else 0.0
    active = 12_879_925_248 if reader.pruning == "off" else 10_240_000_000
    return Meters(
        activated_params=active,
        activated_bytes=4_100_000_000,
        activated_fraction=active / TOTAL_PARAMS,
        prune_ratio=0.31 if reader.pruning == "odp" else 0.0,
        prune_ratio_now=pruned,
        prune_ratio_layers=(pruned, 0.0, pruned / 2, 0.5),
        expert_runs=tuple(
            tuple(tokens * (layer + expert) for expert in range(4)) for layer in range(4)
        ),
        expert_skips=tuple(
            tuple(tokens // 4 * (expert == 3 - layer) for expert in range(4)) for layer in range(4)
        ),
        tokens_per_second=42.5,
        time_to_first_token=0.38,
        context_used=prompt + tokens,
        context_size=CONTEXT,
        memory=MEMORY,
    )


def knows_otp(model: str) -> bool:
    manifest = Path(model) / "mc.json"
    return manifest.is_file() and "otp" in json.loads(manifest.read_text())


def load(request: protocol.Load) -> None:
    if request.model.endswith("broken"):
        emit(
            protocol.Failed(
                "CheckpointError",
                "layer-03.safetensors is truncated; compress again",
                model=request.model,
            )
        )
        return
    emit(protocol.LoadProgress(0.5, "loading"))
    emit(
        protocol.Loaded(
            name="fake",
            device=next((d.name for d in DEVICES if d.id == request.device), DEVICES[0].name)
            + (", forced" if request.force else ""),
            context=request.context or CONTEXT,
            total_params=TOTAL_PARAMS,
            nominal_bits=2.5,
            bits_per_weight=2.98,
            memory=MEMORY,
            model=request.model,
            prunings=("odp", "otp", "off") if knows_otp(request.model) else ("odp", "off"),
        )
    )


def answer_to(words: str, request: Generate) -> str:
    if "differ" in words and request.pruning == "off":
        return ANSWER.replace("far fewer parameters", "only a part of the parameters")
    if "nasty" in words:
        return NASTY
    if "pieces" in words:
        return PIECES
    if "many" in words:
        return "\n\n".join(f"Paragraph {n} of " + 40 * "*many* " + "words." for n in range(200))
    if "code" in words:
        return "```python\n" + "".join(f"x = {i}\n" for i in range(60)) + "```\n"
    return ANSWER


def words_in(messages: Sequence[Message]) -> int:
    """The prompt's tokens, as this engine has them."""
    return sum(len(message.content.split()) for message in messages)


def generate(request: Generate, reader: Reader, pace: float) -> None:
    words = next(said.content for said in reversed(request.messages) if said.role == "user")
    continues = request.messages[-1].role == "assistant"
    reader.pruning = request.pruning
    if "full" in words:
        emit(
            protocol.Failed("ContextFullError", "the chat has 9,000 tokens, 8,192 fit", request.id)
        )
        return
    if "memory" in words:
        emit(protocol.Failed("DoesNotFitError", "out of memory; use fewer bits", request.id))
        return
    prompt = words_in(request.messages)
    answer = MORE if continues else answer_to(words, request)
    length = 1 if "pieces" in words else 6
    pieces = [answer[start : start + length] for start in range(0, len(answer), length)]
    said, updates = "", 0
    for count, piece in enumerate(pieces, start=1):
        if "hold" in words and count == 20:
            while request.id not in reader.cancelled and not reader.ended:
                emit(protocol.MetersUpdate(request.id, meters(reader, count, prompt)))
                updates += 1
                time.sleep(0.001 if updates < 80 else 0.1)
        if "crash" in words and count == 12:
            print("CUDA error: device-side assert", file=sys.stderr, flush=True)
            os._exit(7)
        if request.id in reader.cancelled:
            break
        said += piece
        emit(protocol.Token(request.id, piece))
        if count % 4 == 0:
            emit(protocol.MetersUpdate(request.id, meters(reader, count, prompt)))
        time.sleep(pace)
    reason: protocol.FinishReason = "context" if "grow" in words and not continues else "stop"
    if "cut" in words and not continues:
        reason = "length"
    if request.id in reader.cancelled:
        reason = "cancelled"
    emit(
        protocol.Finished(
            id=request.id,
            text=said,
            tokens=len(said) // 6,
            prompt_tokens=prompt,
            tokens_per_second=42.5,
            finish_reason=reason,
            meters=meters(reader, len(pieces), prompt),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pace", type=float, default=0.0, help="seconds between tokens")
    parser.add_argument("--devices", choices=(*SETS, "none", "dies"), default="good")
    options = parser.parse_args()
    reader = Reader()
    loaded = False
    emit(protocol.Ready())
    while not isinstance(request := reader.requests.get(), protocol.Shutdown):
        if isinstance(request, protocol.Detect) and options.devices == "dies":
            sys.exit("no driver")
        elif isinstance(request, protocol.Detect) and options.devices != "none":
            held = MEMORY.weights if loaded else 0
            found = SETS[options.devices]
            emit(protocol.Devices(tuple(replace(d, free_bytes=d.free_bytes - held) for d in found)))
        elif isinstance(request, protocol.Load):
            load(request)
            loaded = True
        elif isinstance(request, protocol.Unload):
            loaded = False
            emit(protocol.Unloaded())
        elif isinstance(request, protocol.Count):
            emit(protocol.Counted(request.id, words_in(request.messages) if loaded else None))
        elif isinstance(request, Generate):
            generate(request, reader, options.pace)


if __name__ == "__main__":
    main()
