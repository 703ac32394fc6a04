"""The operations of a decode step as Triton kernels; imported only where they run."""

from collections.abc import Sequence

from torch import Tensor

from engine.cache import LayerCache
from engine.decoding.adjustments import Adjustments
from engine.decoding.state import DecodeState, LayerRule
from engine.kernels import Arena
from engine.kernels.triton import attention, decode, elementwise, routing, sampling
from engine.model import Model
from engine.packing import PackedMatrix


class TritonOperations:
    """See `engine.decoding.operations.Operations`."""

    def __init__(self, model: Model) -> None:
        """Allocates what an operation's programs leave for each other."""
        config = model.config
        self._attention_scratch = attention.DecodeScratch.allocate(
            config.num_heads, config.head_dim, model.embed.device
        )
        self._routing_scratch = routing.Scratch.allocate(
            config.num_experts, config.top_k, model.embed.device
        )
        self._candidates = sampling.Candidates.allocate(config.vocab_size, model.embed.device)

    def rms_norm(
        self, x: Tensor, weight: Tensor, eps: float, out: Tensor, added: Tensor | None
    ) -> None:
        """See `Operations.rms_norm`."""
        elementwise.rms_norm(x, weight, eps, out, added)

    def rms_norm_turned(
        self,
        x: Tensor,
        weight: Tensor,
        eps: float,
        out: Tensor,
        added: Tensor,
        turned: Tensor,
        group_size: int,
    ) -> None:
        """See `Operations.rms_norm_turned`."""
        elementwise.rms_norm(x, weight, eps, out, added, turned, group_size)

    def packed_matvec(self, x: Tensor, matrix: PackedMatrix, out: Tensor) -> None:
        """See `Operations.packed_matvec`."""
        decode.packed_matvec(x, matrix, out)

    def packed_matvecs(
        self, x: Tensor, matrices: Sequence[PackedMatrix], outs: Sequence[Tensor]
    ) -> None:
        """See `Operations.packed_matvecs`."""
        decode.packed_matvecs(x, matrices, outs)

    def half_matvec(self, x: Tensor, weight: Tensor, out: Tensor) -> None:
        """See `Operations.half_matvec`."""
        decode.half_matvec(x, weight, out)

    def rope_write(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        adjustments: Adjustments,
        position: Tensor,
        frequencies: Tensor,
        cache: LayerCache,
        out: Tensor,
    ) -> None:
        """See `Operations.rope_write`."""
        elementwise.rope_write(q, k, v, adjustments, position, frequencies, cache, out)

    def decode_attention(
        self,
        q: Tensor,
        cache: LayerCache,
        position: Tensor,
        window: int | None,
        out: Tensor,
        own: Tensor,
    ) -> None:
        """See `Operations.decode_attention`."""
        scratch = self._attention_scratch
        attention.decode_attention(q, cache, position, window, scratch, out, own)

    def route(
        self,
        x: Tensor,
        router: Tensor,
        renormalised: bool,
        rule: LayerRule,
        own: Tensor,
        ids: Tensor,
        weights: Tensor,
        counts: Tensor,
    ) -> None:
        """See `Operations.route`."""
        choice = routing.Choice(ids, weights, counts)
        routing.route(x, router, renormalised, rule, own, self._routing_scratch, choice)

    def experts_decode(
        self, x: Tensor, ids: Tensor, weights: Tensor, arena: Arena, out: Tensor
    ) -> None:
        """See `Operations.experts_decode`."""
        decode.experts_decode(x, ids, weights, arena, out)

    def gate(self, gate: Tensor, up: Tensor, x: Tensor, share: Tensor, out: Tensor) -> None:
        """See `Operations.gate`."""
        elementwise.gate(gate, up, x, share, out)

    def draw(self, state: DecodeState) -> None:
        """See `Operations.draw`."""
        sampling.draw(state, self._candidates)
        sampling.leave(state)
