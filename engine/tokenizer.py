"""A model folder's tokenizer and its chat template.

`tokenizers` and a sandboxed jinja are used directly: they are imported in 0.1 s, transformers'
AutoTokenizer, which wraps the same two, in 2.5 s. Both give the same ids; a test compares them.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as Backend

from engine.errors import CheckpointError
from engine.json_file import read_json

# From the private use area; never left in a prompt.
_MARK = "\uf8ff"  # breaks up the text of a special token
_OPEN_END = "\uf8fe"  # where a reply that is to be continued ends


class Tokenizer:
    """Text to token ids and back, and a chat's turns to the text the model was trained on."""

    def __init__(self, backend: Backend, special: dict[str, str], template: str | None) -> None:
        """``special`` holds the texts of `bos_token`, `eos_token` and so on."""
        self._backend = backend
        self._special = special
        self._template = template
        self._special_ids = {
            token.content: id
            for id, token in backend.get_added_tokens_decoder().items()
            if token.special and token.content
        }
        longest_first = sorted(self._special_ids, key=len, reverse=True)
        alternatives = "|".join(re.escape(text) for text in longest_first)
        # Without special tokens the pattern matches nowhere.
        self._special_pattern = re.compile(f"({alternatives})" if alternatives else r"((?!))")

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Read tokenizer.json, tokenizer_config.json and the chat template. Raises
        CheckpointError when one is missing or damaged."""
        config = _read_json(folder / "tokenizer_config.json")
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"{folder} has no tokenizer.json; get the model's folder again")
        try:
            backend = Backend.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"{path} cannot be read: {error}") from None
        return cls(backend, _special_texts(config), _chat_template(folder, config))

    @property
    def bos_id(self) -> int | None:
        """The id that starts every sequence, None if the model has none."""
        return self._special_id("bos_token")

    @property
    def eos_id(self) -> int | None:
        """The id that ends a reply, None if the model has none."""
        return self._special_id("eos_token")

    def _special_id(self, name: str) -> int | None:
        text = self._special.get(name)
        return None if text is None else self._backend.token_to_id(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``, special tokens left out."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=True)
        return text

    def encode(self, text: str) -> list[int]:
        """Plain text to ids: no BOS, and what looks like a special token is text."""
        self._backend.encode_special_tokens = True
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_turns(self, turns: Sequence[dict[str, str]]) -> list[int]:
        """A chat (alternating user and assistant ``role`` and ``content``) to ids, one BOS first.

        Only the template writes special tokens: a message that contains their text stays text, so
        nobody can end a turn or forge another from within. A last turn of the assistant's is left
        open, to be continued: nothing follows its text. Raises CheckpointError.
        """
        guarded = [{**turn, "content": self._guard(turn["content"])} for turn in turns]
        if turns and turns[-1]["role"] == "assistant":
            text = self._render_open(guarded)
        else:
            text = self._render(guarded)
        ids = self._encode_guarded(text) if _MARK in text else self._encode_rendered(text)
        bos = self.bos_id
        while bos is not None and ids[:1] == [bos]:
            ids = ids[1:]
        return ids if bos is None else [bos, *ids]

    def _guard(self, content: str) -> str:
        """Break up texts of special tokens with a mark, wherever one begins, overlaps too."""
        content = content.replace(_MARK, "").replace(_OPEN_END, "")
        return re.sub(rf"(?s)(?={self._special_pattern.pattern}).", rf"\g<0>{_MARK}", content)

    def _encode_rendered(self, text: str) -> list[int]:
        self._backend.encode_special_tokens = False
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def _encode_guarded(self, text: str) -> list[int]:
        """Piece by piece between the template's own special tokens, the marks taken out."""
        ids: list[int] = []
        for index, piece in enumerate(self._special_pattern.split(text)):
            if index % 2:
                ids.append(self._special_ids[piece])
            elif piece:
                ids.extend(self.encode(piece.replace(_MARK, "")))
        return ids

    def _render_open(self, turns: Sequence[dict[str, str]]) -> str:
        """The text up to the end of the last turn's content."""
        last = {**turns[-1], "content": turns[-1]["content"] + _OPEN_END}
        text, mark, _ = self._render([*turns[:-1], last]).rpartition(_OPEN_END)
        if not mark:
            raise CheckpointError(
                "the model's chat template drops the reply's end: it cannot be continued; "
                "ask for a new reply"
            )
        return text

    def _render(self, turns: Sequence[dict[str, str]]) -> str:
        if self._template is None:
            raise CheckpointError(
                "the model's tokenizer has no chat template: it is a base model, not made to chat"
            )
        try:
            template = _environment().from_string(self._template)
            return template.render(messages=turns, add_generation_prompt=True, **self._special)
        except Exception as error:  # a stranger's program may raise anything
            what = " ".join(str(error).split())
            raise CheckpointError(f"the model's chat template fails: {what}") from None


def _environment() -> ImmutableSandboxedEnvironment:
    """As transformers sets it up: templates are written against these settings."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = read_json(path)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return raw


def _special_texts(config: dict[str, Any]) -> dict[str, str]:
    """`bos_token` and the like are texts, or, in older files, objects that hold the text."""
    texts = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        value = config.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            texts[name] = text
    return texts


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    """Its own file in new folders, an entry of the configuration in older ones."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (ValueError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from None
    template = config.get("chat_template")
    if isinstance(template, list):  # several named ones
        named = [entry for entry in template if isinstance(entry, dict)]
        default = (entry for entry in named if entry.get("name") == "default")
        template = next(default, {}).get("template")
    return template if isinstance(template, str) else None
