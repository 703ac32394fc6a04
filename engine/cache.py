"""The static KV cache: allocated once, for one conversation at a time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.errors import ContextFullError


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer, [B, KV heads, capacity, head dim] each."""

    keys: Tensor
    values: Tensor

    def write(self, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put ``keys`` and ``values`` [B, KV, T, D] at ``start``; return all up to their end."""
        end = start + keys.shape[2]
        self.keys[:, :, start:end] = keys
        self.values[:, :, start:end] = values
        return self.keys[:, :, :end], self.values[:, :, :end]


class KVCache:
    """Keys and values of ``capacity`` tokens in all layers.

    ``length`` tokens are valid; the model moves it forward, `truncate` moves it back.
    """

    def __init__(
        self,
        config: ModelConfig,
        capacity: int,
        batch: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        size = (config.num_layers, batch, config.num_kv_heads, capacity, config.head_dim)
        self._keys = torch.zeros(size, device=device, dtype=dtype)
        self._values = torch.zeros(size, device=device, dtype=dtype)
        self.layers = tuple(map(LayerCache, self._keys, self._values))
        self.capacity = capacity
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
        return self._keys.nbytes + self._values.nbytes
