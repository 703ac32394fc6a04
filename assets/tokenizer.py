"""The demo's tokenizer: a byte-level BPE, so that any text, in any script, survives a round trip.

The 256 byte symbols are always in the vocabulary and are what rare text falls back to. Digits are
single tokens, so that numbers are copied and added digit by digit. `[INST]` and `[/INST]` are one
token each; the chat format is otherwise Mixtral's.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

UNK: Final = "<unk>"
BOS: Final = "<s>"
EOS: Final = "</s>"
USER_START: Final = "[INST]"
USER_END: Final = "[/INST]"
SPECIAL_TOKENS: Final = (UNK, BOS, EOS, USER_START, USER_END)

CHAT_TEMPLATE: Final = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token }}"
    "{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}"
    "{% endif %}"
    "{% endfor %}"
)
"""Mixtral-8x7B-Instruct-v0.1's: one BOS, no system role, roles alternate."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a BPE of exactly `vocab_size` tokens (if `texts` hold enough pairs) from `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos_id = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos_id)]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Write the files that `AutoTokenizer.from_pretrained(folder)` reads.

    `max_length` is the longest context, in tokens, that the model was trained for.
    """
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=[USER_START, USER_END],
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
    wrapped.save_pretrained(folder)


def render(messages: Iterable[dict[str, str]]) -> str:
    """The chat as Mixtral's text, without BOS, which `encode` adds. Roles are taken on trust."""
    parts = []
    for message in messages:
        if message["role"] == "user":
            parts.append(f"{USER_START} {message['content']} {USER_END}")
        else:
            parts.append(f" {message['content']}{EOS}")
    return "".join(parts)
