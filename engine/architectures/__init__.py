"""The kinds of models that can be compressed, an adapter each; all else is shared.

Free of torch. What an adapter cannot say is refused in one line.
"""

from engine.architectures.architecture import Architecture
from engine.architectures.fields import Fields, wrong
from engine.architectures.mixtral import MIXTRAL
from engine.architectures.olmoe import OLMOE
from engine.architectures.qwen2_moe import QWEN2_MOE
from engine.architectures.qwen3_moe import QWEN3_MOE
from engine.errors import SourceError

ARCHITECTURES: tuple[Architecture, ...] = (MIXTRAL, OLMOE, QWEN3_MOE, QWEN2_MOE)


def architecture_of(fields: Fields) -> Architecture:
    """The one that a `config.json` is of. Raises SourceError, naming the known ones."""
    classes, kind = fields.get("architectures") or [], fields.get("model_type")
    if not isinstance(classes, list):
        raise wrong("architectures", classes, "a list of names")
    for known in ARCHITECTURES:
        if known.name in classes or known.model_type == kind:
            return known
    named = ", ".join(map(str, classes)) or kind or "unnamed"
    names = ", ".join(known.name for known in ARCHITECTURES)
    raise SourceError(f"the architecture {named} is not supported; mc-chat compresses {names}")
