"""The shape of a Mixtral model, read from the `config.json` that transformers also reads."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import SourceError

ARCHITECTURE = "MixtralForCausalLM"


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of one model. Counts unless said otherwise.

    ``sliding_window`` is in tokens, None for full attention; ``max_context`` is the longest
    sequence the model was trained for, in tokens.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_experts: int
    top_k: int
    rope_theta: float
    rms_norm_eps: float
    max_context: int
    sliding_window: int | None = None
    tie_embeddings: bool = False
    eos_ids: tuple[int, ...] = ()

    @property
    def expert_weights(self) -> int:
        """Weights of one expert: gate, up and down."""
        return 3 * self.hidden_size * self.intermediate_size

    @property
    def attention_weights(self) -> int:
        """Weights of one layer's q, k, v and o projections."""
        return 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_kv_heads)

    @property
    def total_weights(self) -> int:
        """All weights of the model, norms and embeddings included."""
        per_layer = (
            self.num_experts * self.expert_weights
            + self.attention_weights
            + self.num_experts * self.hidden_size  # router
            + 2 * self.hidden_size  # norms
        )
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        return self.num_layers * per_layer + embeddings + self.hidden_size

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "ModelConfig":
        """Read transformers' configuration keys.

        Raises SourceError for another architecture, a missing key or a scaled RoPE.
        """
        architectures = raw.get("architectures") or []
        if ARCHITECTURE not in architectures and raw.get("model_type") != "mixtral":
            named = ", ".join(architectures) or raw.get("model_type") or "unnamed"
            raise SourceError(
                f"the architecture {named} is not supported; mc-chat compresses {ARCHITECTURE}"
            )
        try:
            return cls._from_mixtral(raw)
        except KeyError as missing:
            raise SourceError(f"config.json has no {missing}: it is not a whole Mixtral") from None

    @classmethod
    def _from_mixtral(cls, raw: dict[str, Any]) -> "ModelConfig":
        eos = raw.get("eos_token_id")
        heads = raw["num_attention_heads"]
        return cls(
            vocab_size=raw["vocab_size"],
            hidden_size=raw["hidden_size"],
            intermediate_size=raw["intermediate_size"],
            num_layers=raw["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=raw.get("num_key_value_heads") or heads,
            head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
            num_experts=raw["num_local_experts"],
            top_k=raw["num_experts_per_tok"],
            rope_theta=_rope_theta(raw),
            rms_norm_eps=raw.get("rms_norm_eps", 1e-5),
            max_context=raw["max_position_embeddings"],
            sliding_window=raw.get("sliding_window"),
            tie_embeddings=raw.get("tie_word_embeddings", False),
            eos_ids=() if eos is None else (eos,) if isinstance(eos, int) else tuple(eos),
        )

    @classmethod
    def from_folder(cls, folder: Path) -> "ModelConfig":
        """Read ``folder/config.json``. Raises SourceError when it is missing or not JSON."""
        path = folder / "config.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SourceError(f"{folder} has no config.json: it is not a model folder") from None
        except (ValueError, OSError) as error:
            raise SourceError(f"{path} cannot be read: {error}") from None
        if not isinstance(raw, dict):
            raise SourceError(f"{path} is not a JSON object")
        return cls.from_dict(raw)


def _rope_theta(raw: dict[str, Any]) -> float:
    """Older files say `rope_theta`; transformers 5 nests it in `rope_parameters`."""
    nested = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = nested.get("rope_type", nested.get("type", "default"))
    if kind != "default":
        raise SourceError(f"RoPE scaling of type {kind!r} is not supported, only the default")
    theta = nested.get("rope_theta", raw.get("rope_theta", 10_000.0))
    return float(theta)


MIXTRAL_8X7B = ModelConfig(
    vocab_size=32_000,
    hidden_size=4096,
    intermediate_size=14_336,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    num_experts=8,
    top_k=2,
    rope_theta=1e6,
    rms_norm_eps=1e-5,
    max_context=32_768,
    eos_ids=(2,),
)
"""mistralai/Mixtral-8x7B-Instruct-v0.1, built in so that planning needs no network."""
