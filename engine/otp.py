"""Online top-any pruning (OTP): how many of its experts a token keeps, by the damage of fewer.

A small router in each layer foretells, from the token and its routing weights, how far the residual
stream would move if only the first m of the K chosen experts ran. The token keeps as many as are
worth their price. It looks at the token alone, so a prompt and single tokens are pruned alike.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attention import AttentionStatistics
from engine.config import ModelConfig
from engine.errors import CheckpointError, UsageError
from engine.manifest import OTP_FILE, Manifest
from engine.pruning import DecodeRule, OtpRule, Routing, check_strength, keep_slots
from engine.tensor_file import TensorFile

NO_OTP = "this model has learned no OTP; run `mc-chat prune` on it, or take --pruning odp"

_TENSOR = "otp.weight"
FARTHEST = 60.0
"""What logarithms are cut to: exp of it, and of its negative, is a float32 and not 0."""


def router_shape(config: ModelConfig) -> tuple[int, int, int]:
    """[L, K - 1, H + K]: the routers of all layers as they are stored."""
    return config.num_layers, config.top_k - 1, config.hidden_size + config.top_k


def features(tokens: Tensor, weights: Tensor) -> Tensor:
    """What a router sees, float32 [T, H + K]: the normed input [T, H] of the MoE block, the
    logarithms of w_r / w_0 for the ranks r from 1 to K - 1, and 1."""
    ratios = (weights[:, 1:] / weights[:, :1]).log().clamp(min=-FARTHEST)
    return torch.cat([tokens.float(), ratios, torch.ones_like(weights[:, :1])], dim=1)


def choose_count(logarithms: Tensor, price: float | Tensor) -> Tensor:
    """How many experts each token keeps, int64 [T], 1 to K.

    ``logarithms`` [T, K - 1] are of the damage of keeping the first 1 to K - 1; all K do none. The
    damage and the price of those that run add up, and the least sum wins: at no price all K.
    """
    damages = F.pad(logarithms.clamp(-FARTHEST, FARTHEST).exp(), (0, 1))  # [T, K]
    ranks = torch.arange(damages.shape[1], device=damages.device)
    return (damages + price * ranks).argmin(dim=1) + 1


def keep_first(routing: Routing, count: Tensor) -> Routing:
    """Skip what comes after the first ``count`` [T] slots; the others share its weight."""
    ranks = torch.arange(routing.ids.shape[1], device=count.device)
    return keep_slots(routing, ranks < count[:, None])


@dataclass(frozen=True)
class OtpPruning:
    """Skips the experts that are not worth their price.

    ``routers`` float32 [L, K - 1, H + K], see `features`; ``price`` is of one expert slot, as a
    share of the squared norm of the residual stream behind the layer.
    """

    routers: Tensor
    price: float
    needs_statistics: bool = False

    @classmethod
    def load(
        cls, folder: Path, manifest: Manifest, config: ModelConfig, device: torch.device | str
    ) -> "OtpPruning | None":
        """What is stored beside a checkpoint, None where nothing is. Raises CheckpointError."""
        if manifest.otp is None:
            return None
        file = TensorFile(folder / OTP_FILE, torch.device(device))
        routers = file.floating(_TENSOR, *router_shape(config)).float()
        if not routers.isfinite().all():
            raise CheckpointError(
                f"{folder / OTP_FILE} holds infinite numbers; run `mc-chat prune` again"
            )
        return cls(routers, manifest.otp.price)

    def tensors(self) -> dict[str, Tensor]:
        """As they are stored."""
        return {_TENSOR: self.routers}

    def scaled(self, strength: float) -> "OtpPruning":
        """As `engine.pruning.OdpPruning.scaled`. Damage goes with the square of the weight that
        is skipped, so the price goes with the square of ``strength``."""
        check_strength(strength)
        return replace(self, price=strength**2 * self.price)

    def decode_rule(self, num_layers: int) -> DecodeRule:
        """Its routers and their price; no threshold skips anything."""
        return self._rule

    @cached_property
    def _rule(self) -> DecodeRule:
        unpruned = DecodeRule.skipping_nothing(len(self.routers))
        return replace(unpruned, otp=OtpRule(self.routers, self.price))

    def prune(
        self, layer: int, routing: Routing, tokens: Tensor, attention: AttentionStatistics | None
    ) -> Routing:
        """See `engine.pruning.Pruning.prune`. Raises UsageError for routers of another model."""
        router = self.routers[layer]
        if router.shape[0] != routing.ids.shape[1] - 1:
            raise UsageError("these OTP routers are another model's; use --pruning off")
        logarithms = features(tokens, routing.weights) @ router.T  # [T, K - 1]
        return keep_first(routing, choose_count(logarithms, self.price))
