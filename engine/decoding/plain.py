"""The operations of a decode step in plain torch, on any device: slow, and easy to believe.

Matrices are dequantized as a whole, and every expert runs whatever was chosen: only so does nothing
depend on what lies on the device.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.cache import LayerCache, Stored, round_to_codes
from engine.decoding.adjustments import Adjustments
from engine.decoding.state import DecodeState, Drawing, LayerRule
from engine.experts import skipped
from engine.hadamard import rotate
from engine.kernels import Arena
from engine.layout import MATRICES
from engine.otp import choose_count, features
from engine.packing import PackedMatrix, dequantize
from engine.pruning import keep_slots
from engine.pruning import route as choose
from engine.random_numbers import uniform_on_device
from engine.sampling import COLDEST


class PlainOperations:
    """See `engine.decoding.operations.Operations`. Everything is computed in float32."""

    def rms_norm(
        self, x: Tensor, weight: Tensor, eps: float, out: Tensor, added: Tensor | None
    ) -> None:
        """See `Operations.rms_norm`."""
        if added is not None:
            x += added
        out.copy_(F.rms_norm(x.float(), weight.shape, weight.float(), eps))

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
        self.rms_norm(x, weight, eps, out, added)
        turned.copy_(rotate(out.float(), group_size))

    def packed_matvec(self, x: Tensor, matrix: PackedMatrix, out: Tensor) -> None:
        """See `Operations.packed_matvec`."""
        out.copy_(F.linear(x.float(), dequantize(matrix)))

    def packed_matvecs(
        self, x: Tensor, matrices: Sequence[PackedMatrix], outs: Sequence[Tensor]
    ) -> None:
        """See `Operations.packed_matvecs`."""
        for matrix, out in zip(matrices, outs, strict=True):
            self.packed_matvec(x, matrix, out)

    def half_matvec(self, x: Tensor, weight: Tensor, out: Tensor) -> None:
        """See `Operations.half_matvec`."""
        out.copy_(F.linear(x.float(), weight.float()))

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
        angles = position.float() * frequencies  # [D / 2]
        q, k, v = _adjusted(q.float(), k.float(), v.float(), adjustments)
        out.copy_(_rotated(q.view(out.shape), angles))
        heads = (cache.keys.shape[1], cache.keys.shape[3])
        _put(Stored(cache.keys, cache.key_scales), _rotated(k.view(heads), angles), position)
        _put(Stored(cache.values, cache.value_scales), v.view(heads), position)

    def decode_attention(
        self,
        q: Tensor,
        cache: LayerCache,
        position: Tensor,
        window: int | None,
        out: Tensor,
        own: Tensor,
    ) -> None:
        """See `Operations.decode_attention`; a map over the whole capacity."""
        keys = Stored(cache.keys, cache.key_scales).floats(torch.float32)[0].float()  # [KV, S, D]
        values = Stored(cache.values, cache.value_scales).floats(torch.float32)[0].float()
        kv_heads, capacity, dim = keys.shape
        scores = q.float().view(kv_heads, -1, dim) @ keys.transpose(1, 2) * dim**-0.5  # [KV, R, S]
        places = torch.arange(capacity, device=q.device)
        hidden = places > position
        if window is not None:
            hidden |= places <= position - window
        attention = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
        out.copy_((attention @ values).view(out.shape))
        own.copy_(attention.index_select(-1, position).mean().view(1))

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
        tokens = x.float()
        routing = choose(F.linear(tokens, router.float()), ids.shape[1], renormalised)
        ratios = routing.weights / routing.weights[:, :1]
        important = tokens.abs().sum() * own > rule.levels[-1]
        keep = (ratios >= F.pad(rule.levels[:-1], (1, 0))) | important  # [1, K]
        foretold = features(tokens, routing.weights) @ rule.routers.T  # [1, K - 1]
        ranks = torch.arange(ids.shape[1], device=ids.device)
        keep &= ranks < choose_count(foretold, rule.price)
        routing = keep_slots(routing, keep)
        ids.copy_(routing.ids)
        weights.copy_(routing.weights)
        chosen = routing.ids[0]
        slots = chosen.where(chosen >= 0, len(router) + skipped(chosen))
        counts.scatter_add_(0, slots, torch.ones_like(slots))

    def experts_decode(
        self, x: Tensor, ids: Tensor, weights: Tensor, arena: Arena, out: Tensor
    ) -> None:
        """See `Operations.experts_decode`."""
        total = torch.zeros_like(out, dtype=torch.float32)
        x = x.float()
        if arena.layout.rotated:  # back again: dequantized weights are for inputs as they were
            x = rotate(x, arena.layout.group_size)
        for expert in range(arena.num_experts):
            gate, up, down = (dequantize(arena.matrix(expert, name)) for name in MATRICES)
            inner = F.silu(F.linear(x, gate)) * F.linear(x, up)  # [1, I]
            share = weights.masked_fill(ids != expert, 0.0).sum()
            total += F.linear(inner, down) * share
        out.copy_(total)

    def gate(self, gate: Tensor, up: Tensor, x: Tensor, share: Tensor, out: Tensor) -> None:
        """See `Operations.gate`."""
        factor = F.linear(x.float(), share.float()).sigmoid()
        out.copy_(F.silu(gate.float()) * up.float() * factor)

    def draw(self, state: DecodeState) -> None:
        """See `Operations.draw`."""
        drawing, logits = state.drawing, state.activations.logits[0]
        token = _drawn(logits, drawing)  # [1]
        state.token.copy_(token)
        drawing.picked.copy_(torch.where(_are_numbers(logits), token, -1))
        drawing.drawn.add_(1)
        drawing.seen.index_fill_(0, token, True)
        row = torch.cat((drawing.picked, state.counts.flatten()))
        state.ring.index_copy_(0, state.slot, row[None])
        state.slot.add_(1)
        state.counts.zero_()


def _adjusted(
    q: Tensor, k: Tensor, v: Tensor, adjustments: Adjustments
) -> tuple[Tensor, Tensor, Tensor]:
    if adjustments.biases is not None:
        q, k, v = (x + bias for x, bias in zip((q, k, v), adjustments.biases, strict=True))
    if adjustments.gains is not None:
        q, k = (
            F.rms_norm(x.view(-1, len(gain)), gain.shape, gain.float(), adjustments.eps)
            for x, gain in zip((q, k), adjustments.gains, strict=True)
        )
    if adjustments.clip is not None:
        q, k, v = (x.clamp(-adjustments.clip, adjustments.clip) for x in (q, k, v))
    return q, k, v


def _rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate heads x [heads, D] by ``angles`` [D / 2]."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _put(into: Stored, new: Tensor, position: Tensor) -> None:
    """Store a token's keys or values [KV, D] at ``position``."""
    if into.scales is None:
        into.data[0].index_copy_(1, position.long(), new[:, None].to(into.data.dtype))
        return
    codes, scales = round_to_codes(new)
    into.data[0].index_copy_(1, position.long(), codes[:, None])
    into.scales[0].index_copy_(1, position.long(), scales[:, None])


def _are_numbers(logits: Tensor) -> Tensor:
    """Whether there is no NaN among them and their maximum is finite, bool []."""
    return logits.amax().isfinite() & ~logits.isnan().any()


def _drawn(logits: Tensor, drawing: Drawing) -> Tensor:
    """The next token, int64 [1], of logits [V]."""
    temperature, top_k, top_p, min_p, penalty = drawing.options.unbind()
    penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
    scores = torch.where(drawing.seen, penalised, logits)
    ordered, tokens = scores.sort(descending=True, stable=True)
    shares = ((ordered - ordered[0]) / temperature.clamp(min=COLDEST)).exp()
    rank = torch.arange(len(shares), device=shares.device)
    last = torch.where(top_k > 0, top_k - 1, len(shares) - 1).clamp(max=len(shares) - 1)
    lowest = ordered.index_select(0, last.long().view(1))
    shares = shares.masked_fill(ordered < lowest, 0.0)
    before = shares.cumsum(0) - shares
    beyond = (before >= top_p * shares.sum()) & (top_p < 1) & (rank > 0)
    shares = shares.masked_fill(beyond | (shares < min_p), 0.0)
    by_token = torch.zeros_like(shares).scatter_(0, tokens, shares)
    sums = by_token.cumsum(0)
    target = uniform_on_device(drawing.key, drawing.drawn) * sums[-1]
    reached = (by_token > 0) & (sums - by_token <= target)
    chosen = torch.where(reached, rank, 0).amax(0, keepdim=True)
    return torch.where(temperature == 0, tokens[:1], chosen)
