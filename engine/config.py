"""The shape of a model, read from the `config.json` that transformers also reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.architectures import architecture_of
from engine.architectures.architecture import AS_MIXTRAL, Architecture, Traits
from engine.architectures.fields import count, flag, positive, token_ids, wrong
from engine.architectures.mixtral import MIXTRAL
from engine.errors import SourceError
from engine.json_file import read_json


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of one model. Counts unless said otherwise.

    ``sliding_window`` is in tokens, None for full attention; ``max_context`` is the longest
    sequence the model was trained for, in tokens. ``architecture`` says how the original is
    stored, ``traits`` what the model has beyond a Mixtral.
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
    architecture: Architecture = MIXTRAL
    traits: Traits = AS_MIXTRAL

    @property
    def expert_weights(self) -> int:
        """Weights of one expert: gate, up and down."""
        return 3 * self.hidden_size * self.intermediate_size

    @property
    def attention_weights(self) -> int:
        """Weights of one layer's q, k, v and o projections."""
        return 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_kv_heads)

    @property
    def shared_weights(self) -> int:
        """Weights of one layer's shared expert, its gate aside: gate, up and down."""
        return 3 * self.hidden_size * self.traits.shared_size

    @property
    def norm_sizes(self) -> tuple[int, int]:
        """Weights of the norms of a layer's queries and keys, 0 where they have none."""
        heads = {"none": (0, 0), "head": (1, 1), "all": (self.num_heads, self.num_kv_heads)}
        queries, keys = heads[self.traits.norms]
        return queries * self.head_dim, keys * self.head_dim

    @property
    def small_weights(self) -> int:
        """Weights of one layer outside all matrices: norms, biases, the gate of a shared expert."""
        biases = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        gate = self.hidden_size if self.traits.shared_size else 0
        return 2 * self.hidden_size + sum(self.norm_sizes) + biases * self.traits.qkv_bias + gate

    @property
    def dense_weights(self) -> int:
        """Weights of one layer that every token passes: all but the experts it chooses among."""
        router = self.num_experts * self.hidden_size
        return self.attention_weights + self.shared_weights + self.small_weights + router

    @property
    def total_weights(self) -> int:
        """All weights of the model, norms and embeddings included."""
        per_layer = self.num_experts * self.expert_weights + self.dense_weights
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        return self.num_layers * per_layer + embeddings + self.hidden_size

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "ModelConfig":
        """Read transformers' configuration keys.

        Raises SourceError for another architecture, a missing key, a value that no model has, or
        something that is not supported: a scaled RoPE, layers without experts.
        """
        architecture = architecture_of(raw)
        try:
            return cls._from(architecture, raw)
        except KeyError as missing:
            raise SourceError(f"config.json has no {missing}: it is not a whole model's") from None

    @classmethod
    def _from(cls, architecture: Architecture, raw: dict[str, Any]) -> "ModelConfig":
        heads = count(raw, "num_attention_heads")
        kv_heads = count(raw, "num_key_value_heads") if raw.get("num_key_value_heads") else heads
        hidden = count(raw, "hidden_size")
        head_dim = count(raw, "head_dim") if raw.get("head_dim") else hidden // heads
        experts, top_k = count(raw, *architecture.expert_counts), count(raw, "num_experts_per_tok")
        if heads % kv_heads:
            raise SourceError(f"config.json is damaged: {heads} heads do not divide by {kv_heads}")
        if head_dim < 1 or head_dim % 2:
            raise SourceError(f"config.json is damaged: head_dim is {head_dim}, not an even number")
        if top_k > experts:
            raise SourceError(f"config.json is damaged: it selects {top_k} experts of {experts}")
        if raw.get("hidden_act", "silu") != "silu":
            raise SourceError(f"experts with {raw['hidden_act']!r} are not supported, only silu")
        return cls(
            vocab_size=count(raw, "vocab_size"),
            hidden_size=hidden,
            intermediate_size=count(raw, architecture.inner_size),
            num_layers=count(raw, "num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            num_experts=experts,
            top_k=top_k,
            rope_theta=_rope_theta(raw),
            rms_norm_eps=positive(raw.get("rms_norm_eps", architecture.norm_eps), "rms_norm_eps"),
            max_context=count(raw, "max_position_embeddings"),
            sliding_window=architecture.window(raw),
            tie_embeddings=flag(raw, "tie_word_embeddings", False),
            eos_ids=token_ids(raw.get("eos_token_id"), "eos_token_id"),
            architecture=architecture,
            traits=architecture.traits(raw),
        )

    @classmethod
    def from_folder(cls, folder: Path) -> "ModelConfig":
        """Read ``folder/config.json``. Raises SourceError when it is missing or not JSON."""
        path = folder / "config.json"
        try:
            raw = read_json(path)
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
    if not isinstance(nested, dict):
        raise wrong("rope_parameters", nested, "an object")
    kind = nested.get("rope_type", nested.get("type", "default"))
    if kind != "default":
        raise SourceError(f"RoPE scaling of type {kind!r} is not supported, only the default")
    return positive(nested.get("rope_theta", raw.get("rope_theta", 10_000.0)), "rope_theta")


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
