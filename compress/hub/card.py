"""The model card of a published checkpoint: what its manifest says, in Markdown."""

import json
from collections import Counter

from compress.allocator_names import allocator_words
from compress.hub.repository import is_repository_name
from engine.manifest import FULL_BITS, Manifest, Recipe
from engine.quality import Quality

_TAGS = ("mixtral", "mixture-of-experts", "quantized", "mixed-precision", "mc-chat")
_PAPER = "https://arxiv.org/abs/2410.06270"


def model_card(manifest: Manifest, repository: str) -> str:
    """README.md for ``repository``: YAML for the hub, then text for people.

    It names no licence: that of the original goes on to apply, and only its own card knows it.
    """
    return "\n".join([*_front_matter(manifest), *_text(manifest, repository)]) + "\n"


def _front_matter(manifest: Manifest) -> list[str]:
    lines = ["---", "library_name: mc-chat", "pipeline_tag: text-generation"]
    if is_repository_name(manifest.source.repository):
        lines += [
            f"base_model: {json.dumps(manifest.source.repository)}",
            "base_model_relation: quantized",
        ]
    return [*lines, "tags:", *(f"- {tag}" for tag in _TAGS), "---"]


def _text(manifest: Manifest, repository: str) -> list[str]:
    sizes, source = manifest.sizes, manifest.source
    revision = f" at revision {_code(source.revision)}" if source.revision else ""
    return [
        "",
        f"# {_plain(manifest.name)}",
        "",
        f"{_code(source.repository)}{revision}, compressed by mc-chat: its experts have "
        f"{manifest.nominal_bits:.2f} bits in the mean, each as many as it deserves, everything "
        "else in attention has 4. The original's licence goes on to apply: see its model card.",
        "",
        "```sh",
        f"mc-chat pull {_plain(repository)}",
        f"mc-chat run {_plain(repository.split('/')[-1])}",
        "```",
        "",
        "## Size",
        "",
        "| | |",
        "|---|---|",
        f"| bytes of the weights | {sizes.total_bytes:,} |",
        f"| nominal bits (mean code bits of the experts) | {manifest.nominal_bits:.3f} |",
        f"| bits per expert weight, scales and zero points included "
        f"| {sizes.bits_per_expert_weight:.3f} |",
        f"| bits per weight, everything included | {sizes.bits_per_weight:.3f} |",
        "",
        *_quality(manifest.quality),
        "## Recipe",
        "",
        *_recipe(manifest.recipe),
        "",
        "## Widths",
        "",
        *_widths(manifest),
        "",
        f"The method is that of [Mixture Compressor (Huang et al., ICLR 2025)]({_PAPER}). "
        "`mc.json` has all of this, what each expert's width was decided by, and the SHA-256 of "
        "every file, which `mc-chat pull` and `mc-chat verify` check.",
    ]


def _quality(quality: Quality | None) -> list[str]:
    if quality is None or quality.agreement is None:
        return []
    found = quality.agreement
    kind = "not seen while compressing" if found.held_out else "to which the codes were fitted"
    return [
        "## Beside the original",
        "",
        "| | |",
        "|---|---|",
        f"| the same likeliest next token | {found.same_token:.1%} |",
        f"| perplexity, times the original's | {found.perplexity_ratio:.3f} |",
        f"| measured on | {found.tokens:,} tokens of {_plain(found.text)}, {kind} |",
        "",
    ]


def _recipe(recipe: Recipe) -> list[str]:
    rows = {
        "bits asked for": f"{recipe.bits:g}",
        "bits spread by": allocator_words(recipe.allocator),
        "quantizer": recipe.quantizer,
        "group size": str(recipe.group_size),
        "calibration text": recipe.calibration,
        "calibration windows": f"{recipe.samples} of {recipe.window} tokens, seed {recipe.seed}",
        "exponents": f"alpha {recipe.alpha:g}, beta {recipe.beta:g}, gamma {recipe.gamma:g}",
    }
    packed = {"bits of the routers": recipe.router_bits, "bits of the head": recipe.head_bits}
    rows |= {name: str(bits) for name, bits in packed.items() if bits != FULL_BITS}
    lines = ["| | |", "|---|---|"]
    lines += [f"| {name} | {_plain(value)} |" for name, value in rows.items()]
    return lines + ["", *(f"- {_plain(note)}" for note in recipe.notes)] * bool(recipe.notes)


def _widths(manifest: Manifest) -> list[str]:
    """How many experts of each layer have which width."""
    widths = sorted({bits for layer in manifest.layers for bits in layer.expert_bits})
    lines = [
        "| layer | " + " | ".join(f"{bits} bit" for bits in widths) + " |",
        "|---|" + "---|" * len(widths),
    ]
    for index, layer in enumerate(manifest.layers):
        counts = Counter(layer.expert_bits)
        lines.append(f"| {index} | " + " | ".join(str(counts[bits]) for bits in widths) + " |")
    return lines


def _plain(text: str) -> str:
    """Text that stays in its cell or line and is no markup."""
    line = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\|<>[]*`#" else letter for letter in line)


def _code(text: str) -> str:
    return f"`{' '.join(text.replace('`', '').split())}`"
