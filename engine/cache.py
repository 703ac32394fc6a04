"""The static KV cache: allocated once, for one conversation at a time.

Keys and values are kept in the activations' type, or rounded to 8 bits: int8 codes and one float16
scale for each token, head, and key or value. A token is rounded when it comes and never again, so
that nothing depends on how a prompt was cut into chunks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.budget import KvBits
from engine.config import ModelConfig
from engine.errors import ContextFullError

MAX_CODE = 127
"""Codes are -127 to 127."""

MIN_SCALE = 2.0**-14
"""The smallest float16 that is not subnormal: below it a scale would be less exact than its codes,
and 0 for a token of zeros."""

_ALL = slice(None)


@dataclass(frozen=True)
class Stored:
    """Keys or values of consecutive tokens, [B, KV heads, S, head dim].

    In a floating type, or int8 codes with ``scales`` float16 [B, KV heads, S].
    """

    data: Tensor
    scales: Tensor | None = None

    @property
    def tokens(self) -> int:
        """How many tokens, S."""
        return self.data.shape[2]

    def part(self, tokens: slice, batch: slice = _ALL, heads: slice = _ALL) -> "Stored":
        """Some of the tokens, of some sequences and heads; it shares the memory."""
        index = (batch, heads, tokens)
        return Stored(self.data[index], None if self.scales is None else self.scales[index])

    def floats(self, dtype: torch.dtype) -> Tensor:
        """Their values [B, KV heads, S, head dim]; what is not rounded is not copied."""
        if self.scales is None:
            return self.data
        # Not in one product: of two types at once torch takes up to ten times as long.
        return self.data.float().mul_(self.scales[..., None].float()).to(dtype)


def round_to_codes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int8 [..., D] and scales float16 [...] of x [..., D]; off by half a scale at most."""
    x = x.float()
    scales = (x.abs().amax(dim=-1) / MAX_CODE).clamp(min=MIN_SCALE).half()
    codes = x / scales[..., None].float()
    return codes.round_().clamp_(-MAX_CODE, MAX_CODE).to(torch.int8), scales


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer, [B, KV heads, capacity, head dim] each.

    ``key_scales`` and ``value_scales``, float16 [B, KV heads, capacity], are None unless keys and
    values are int8 codes.
    """

    keys: Tensor
    values: Tensor
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None

    def write(self, start: int, keys: Tensor, values: Tensor) -> tuple[Stored, Stored]:
        """Put ``keys`` and ``values`` [B, KV, T, D] at ``start``; return all up to their end."""
        end = start + keys.shape[2]
        stored = Stored(self.keys, self.key_scales), Stored(self.values, self.value_scales)
        for into, new in zip(stored, (keys, values), strict=True):
            _put(into.part(slice(start, end)), new)
        return stored[0].part(slice(end)), stored[1].part(slice(end))


def _put(into: Stored, new: Tensor) -> None:
    if into.scales is None:
        into.data.copy_(new)
        return
    codes, scales = round_to_codes(new)
    into.data.copy_(codes)
    into.scales.copy_(scales)


class KVCache:
    """Keys and values of ``capacity`` tokens in all layers.

    ``length`` tokens are valid; the model moves it forward, `truncate` moves it back. ``bits`` is
    8, or 16 where keys and values are in the type of the activations (float32 on a CPU).
    """

    def __init__(
        self,
        config: ModelConfig,
        capacity: int,
        batch: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        bits: KvBits = 16,
    ) -> None:
        heads = (config.num_layers, batch, config.num_kv_heads, capacity)
        kept = dtype if bits == 16 else torch.int8
        self._tensors = [
            torch.zeros(*heads, config.head_dim, device=device, dtype=kept) for _ in range(2)
        ]
        if bits == 8:
            self._tensors += [
                torch.zeros(heads, device=device, dtype=torch.float16) for _ in range(2)
            ]
        self.layers = tuple(map(LayerCache, *self._tensors))
        self.capacity = capacity
        self.bits = bits
        self.length = 0

    def reserve(self, tokens: int) -> None:
        """Check that ``tokens`` more fit. Raises ContextFullError."""
        if self.length + tokens > self.capacity:
            raise ContextFullError(
                f"{self.length + tokens} tokens do not fit into a context of {self.capacity}; "
                "shorten the prompt or start a new chat"
            )

    def truncate(self, length: int) -> None:
        """Forget everything after the first ``length`` tokens, which must be there."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot keep {length} of {self.length} tokens")
        self.length = length

    def memory_bytes(self) -> int:
        """Bytes allocated."""
        return sum(tensor.nbytes for tensor in self._tensors)
