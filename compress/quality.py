"""What the rounding has changed: the residual stream behind each layer, and what is predicted.

Both come out of the streams that a compression carries anyway, so they cost no pass over the
layers. They are of the calibration text, on which the codes were fitted; of the demo another text
is looked at, too.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from compress.calibration import CalibrationSize, demo_windows, speaks_demo
from compress.source import Source
from compress.streams import Stream
from engine.attention import Rope, Rotation
from engine.checkpoint import PROJECTIONS, StoredLayer, read_layer
from engine.layout import MATRICES
from engine.linear import FloatLinear, with_product
from engine.manifest import Manifest
from engine.model import Layer, Norm
from engine.packing import dequantize
from engine.quality import Agreement
from engine.tensor_names import EMBEDDING

HELD_OUT_SIZE = CalibrationSize(samples=16, window=512)
HELD_OUT_SEED = 0

_CHUNK = 1024
"""Tokens whose logits are in memory at once,"""
_STRIPE = 8192
"""for so many words of the vocabulary: 34 MB, however large it is."""


@dataclass(frozen=True)
class Head:
    """The final norm and what follows it, ``weight`` [V, H] in any floating type."""

    norm: Norm
    weight: Tensor

    def predict(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """For the residual stream x [t, H] and the tokens that came next [t]: their negative log
        likelihoods, float64 [t], and the likeliest tokens [t]."""
        normed = self.norm.forward(x)
        total = x.new_full((len(x),), -torch.inf, dtype=torch.float64)
        highest = x.new_full((len(x),), -torch.inf)
        likeliest, meant = torch.zeros_like(targets), torch.zeros_like(highest)
        for start in range(0, len(self.weight), _STRIPE):
            stripe = self.weight[start : start + _STRIPE].to(x.device, torch.float32)
            logits = normed @ stripe.T  # [t, v]
            total = torch.logaddexp(total, logits.logsumexp(1).double())
            best, place = logits.max(1)
            likeliest = torch.where(best > highest, place + start, likeliest)
            highest = torch.maximum(highest, best)
            here = (targets >= start) & (targets < start + len(stripe))
            found = logits.gather(1, (targets - start).clamp(0, len(stripe) - 1).unsqueeze(1))
            meant = torch.where(here, found.squeeze(1), meant)
        return total - meant.double(), likeliest


@dataclass(frozen=True)
class Ends:
    """What comes out behind the last layer for windows ``tokens`` [N, T] of ``text``, of the
    original and of the compressed model."""

    text: str
    held_out: bool
    tokens: Tensor
    exact: Stream
    rounded: Stream


def stream_error(exact: Stream, rounded: Stream) -> float:
    """||rounded - exact|| / ||exact||, Frobenius norms over all tokens."""
    squares = torch.zeros(2, dtype=torch.float64, device=exact.device)
    for part in exact.parts():
        x = exact.read(part)
        squares[1] += x.square().sum(dtype=torch.float64)
        squares[0] += x.sub_(rounded.read(part)).square().sum(dtype=torch.float64)
    change, whole = squares.sqrt().tolist()
    return change / whole if whole else 0.0


def agreement(
    ends: Ends, exact_head: Head, rounded_head: Head, listener: Callable[[float], None]
) -> Agreement:
    """Compare what both models predict. ``listener`` hears the share that is done."""
    losses = torch.zeros(2, dtype=torch.float64)
    same = count = 0
    windows = len(ends.tokens)
    for part in ends.exact.parts():
        listener(part.start / windows)
        targets = ends.tokens[part, 1:].flatten().to(ends.exact.device)  # [n * (T - 1)]
        exact = ends.exact.read(part)[:, :-1].flatten(0, 1)  # [n * (T - 1), H]
        rounded = ends.rounded.read(part)[:, :-1].flatten(0, 1)
        for chunk in _chunks(len(targets)):
            loss, top = exact_head.predict(exact[chunk], targets[chunk])
            rounded_loss, rounded_top = rounded_head.predict(rounded[chunk], targets[chunk])
            losses += torch.stack([loss.sum(), rounded_loss.sum()]).cpu()
            same += int((top == rounded_top).sum())
        count += len(targets)
    original, compressed = (losses / count).exp().tolist()
    return Agreement(ends.text, ends.held_out, count, same / count, compressed, original)


def heldout_ends(
    source: Source, folder: Path, manifest: Manifest, device: torch.device
) -> Ends | None:
    """Carry other text than the calibration's through the layers of an original, and through those
    that were made of them in ``folder``. None for any but the demo: it alone brings such a text,
    and is so small that another pass costs a second."""
    if not speaks_demo(source.folder):
        return None
    tokens = demo_windows("heldout", HELD_OUT_SIZE, HELD_OUT_SEED)
    embedded = source.tensor(EMBEDDING).float()[tokens].to(device)  # [N, T, H]
    exact, rounded = Stream(embedded, device), Stream(embedded.clone(), device)
    rope = Rope(source.config, device).at(0, tokens.shape[1])
    for index in range(source.config.num_layers):
        layer = source.layer(index, device)
        _forward(layer, exact, rope)
        stored = read_layer(folder, manifest, source.config, index, device)
        _forward(_as_stored(layer, stored), rounded, rope)
    return Ends("demo corpus, held-out split", True, tokens, exact, rounded)


def _forward(layer: Layer, stream: Stream, rope: Rotation) -> None:
    for part in stream.parts():
        stream.write(part, layer.forward(stream.read(part), rope))


def _as_stored(layer: Layer, stored: StoredLayer) -> Layer:
    """A layer with what its packed matrices stand for."""
    attention, shared = layer.attention, layer.shared
    q, k, v, o = (
        with_product(linear, FloatLinear(dequantize(stored.attention[name])))
        for name, linear in zip(PROJECTIONS, attention.projections, strict=True)
    )
    if shared is not None:
        gate, up, down = (FloatLinear(dequantize(stored.shared[name])) for name in MATRICES)
        shared = replace(shared, gate=gate, up=up, down=down)
    router = layer.router if stored.router is None else FloatLinear(dequantize(stored.router))
    return replace(
        layer,
        attention=replace(attention, q=q, k=k, v=v, o=o),
        router=router,
        experts=stored.experts.dequantize(),
        shared=shared,
    )


def _chunks(count: int) -> Iterator[slice]:
    for start in range(0, count, _CHUNK):
        yield slice(start, start + _CHUNK)
