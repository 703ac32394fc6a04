"""What a decode step on a device is made of: one token, outputs given, nothing read on the host."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from engine.cache import LayerCache
from engine.decoding.adjustments import Adjustments
from engine.decoding.state import DecodeState, LayerRule
from engine.kernels import Arena
from engine.packing import PackedMatrix


class Operations(Protocol):
    """The operations of a step. All tensors lie on one device and are contiguous; `out` is
    overwritten. None of them waits for the device, or depends in its launches on what lies there.
    """

    def rms_norm(
        self, x: Tensor, weight: Tensor, eps: float, out: Tensor, added: Tensor | None
    ) -> None:
        """Normalise x [1, H] into ``out``, after ``added`` [1, H] was added to x in place."""

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
        """`rms_norm`, and ``out`` a second time to ``turned`` [1, H] as rotated experts take it."""

    def packed_matvec(self, x: Tensor, matrix: PackedMatrix, out: Tensor) -> None:
        """x [1, I] times a packed matrix [O, I] to ``out`` [1, O]."""

    def packed_matvecs(
        self, x: Tensor, matrices: Sequence[PackedMatrix], outs: Sequence[Tensor]
    ) -> None:
        """x [1, I] times up to three packed matrices of one width and group size, each [O, I], to
        ``outs`` [1, O]."""

    def half_matvec(self, x: Tensor, weight: Tensor, out: Tensor) -> None:
        """x [1, I] times a floating-point weight [O, I] to ``out`` [1, O]."""

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
        """Adjust q [1, N * D], k and v [1, KV * D]; rotate q to ``out`` [N, D], and k; put k and v
        into the cache.

        ``position`` [1] int32; ``frequencies`` [D / 2] float32.
        """

    def decode_attention(
        self,
        q: Tensor,
        cache: LayerCache,
        position: Tensor,
        window: int | None,
        out: Tensor,
        own: Tensor,
    ) -> None:
        """Attention of q [N, D] at ``position`` [1] to the cache up to there, ``out`` [1, N * D].

        ``own`` [1] float32: the attention of the token to itself, mean over heads.
        """

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
        """Choose experts for x [1, H] by ``router`` [E, H], prune by a layer's rule, and count.

        ``renormalised``: the weights of the chosen are made to sum to 1. Of the rule see
        `engine.pruning.DecodeRule`; own [1] float32. Written are ids [1, K] and weights [1, K];
        ``counts`` [2 * E] grows.
        """

    def experts_decode(
        self, x: Tensor, ids: Tensor, weights: Tensor, arena: Arena, out: Tensor
    ) -> None:
        """Weighted sum of the experts ``ids`` [1, K], those below 0 skipped, of x [1, H], to
        ``out`` [1, H]. Where the arena is rotated, x is turned already."""

    def gate(self, gate: Tensor, up: Tensor, x: Tensor, share: Tensor, out: Tensor) -> None:
        """silu(gate) * up * sigmoid(share x) to ``out``, all three [1, I]; x and share [1, H]."""

    def draw(self, state: DecodeState) -> None:
        """Draw ``state.token`` from the logits as `engine.sampling` does: ``picked``, or any token
        and ``picked`` -1 where they are no numbers. It is seen from now on, ``drawn`` grows by 1.
        Then put ``picked`` and the step's counts into the ring, and begin the next slot and counts.
        """
