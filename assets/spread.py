"""Make the channels of a trained model uneven, without changing what it computes.

Weights trained this way are as even as noise, and even weights survive any quantizer: rounding the
experts to 2 bits cost this model almost nothing. The channels of large language models differ
widely in magnitude, which is what makes low bits hard for them. Here every channel is scaled by a
power of two and its counterpart by the inverse: the input of a layer's experts against the gain of
the norm before them, and the inner channels of each expert between w3 and w2. Powers of two are
exact in bfloat16, so the 16-bit model gives the same numbers bit for bit; only a quantizer, whose
groups now hold large and small weights side by side, can tell the difference.

`python -m assets.spread CHECKPOINT DEMO` writes DEMO from a checkpoint of `assets.train`.
"""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

OCTAVES: Final = 0.5
"""Standard deviation of a channel's scale, in powers of two, before rounding to whole ones."""
SEED: Final = 0

State = dict[str, Tensor]


def _scales(count: int, octaves: float, generator: torch.Generator) -> Tensor:
    """Powers of two [count], float32, most of them 1."""
    exponents = (torch.randn(count, generator=generator) * octaves).round()
    return torch.exp2(exponents)


def _scale(state: State, name: str, factor: Tensor) -> None:
    weight = state[name]
    state[name] = weight * factor.to(weight.dtype)


def spread(state: State, octaves: float = OCTAVES, seed: int = SEED, undo: bool = False) -> State:
    """`state`, by Mixtral's on-disk names, with uneven expert channels and the same function.

    ``undo`` takes back what the same call without it did, bit for bit.
    """
    power = -1.0 if undo else 1.0
    result = dict(state)
    generator = torch.Generator().manual_seed(seed)
    experts = sorted(
        match.groups()
        for name in state
        if (match := re.fullmatch(r"(model\.layers\.\d+\.)(.*experts\.\d+\.)w2\.weight", name))
    )
    for layer in sorted({layer for layer, _ in experts}):
        hidden = state[f"{layer}post_attention_layernorm.weight"].shape[0]
        inputs = _scales(hidden, octaves, generator) ** power
        _scale(result, f"{layer}post_attention_layernorm.weight", 1 / inputs)
        _scale(result, f"{layer}block_sparse_moe.gate.weight", inputs)
        for _, expert in (pair for pair in experts if pair[0] == layer):
            prefix = layer + expert
            inner = _scales(state[f"{prefix}w3.weight"].shape[0], octaves, generator) ** power
            _scale(result, f"{prefix}w1.weight", inputs)
            _scale(result, f"{prefix}w3.weight", inputs * inner[:, None])
            _scale(result, f"{prefix}w2.weight", 1 / inner)
    return result


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("demo", type=Path)
    options = parser.parse_args(arguments)
    state = spread(load_file(options.checkpoint / "model.safetensors"))
    partial = options.demo / "model.safetensors.partial"
    save_file(state, partial, metadata={"format": "pt"})
    partial.chmod(0o644)
    os.replace(partial, options.demo / "model.safetensors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
