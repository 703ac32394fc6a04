"""Two small tokenizers of the kinds that Mixtral models have, and the demo's."""

import shutil
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from assets import DEMO_DIR
from assets.tokenizer import CHAT_TEMPLATE
from engine.tokenizer import Tokenizer as OurTokenizer

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
SPECIAL_TEXTS = ("<unk>", "<s>", "</s>")
DEMO_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def sentencepiece_like() -> Tokenizer:
    """As Mixtral-8x7B-Instruct's: spaces as "▁", one in front, unknown text byte by byte."""
    vocabulary = {text: index for index, text in enumerate(SPECIAL_TEXTS)}
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    for text in "▁ab[]/INSTcdeé:\n":
        vocabulary.setdefault(text, len(vocabulary))
    merges = [
        ("▁", "a"),
        ("a", "b"),
        ("▁", "ab"),
        ("▁", "▁"),
        ("I", "N"),
        ("IN", "S"),
        ("INS", "T"),
    ]
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _finish(tokenizer, SPECIAL_TEXTS)


def byte_level() -> Tokenizer:
    """As the demo's: a symbol per byte, a few merges, [INST] and [/INST] special."""
    texts = (*SPECIAL_TEXTS, "[INST]", "[/INST]")
    vocabulary = {text: index for index, text in enumerate(texts)}
    for symbol in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[symbol] = len(vocabulary)
    merges = [("Ġ", "a"), ("a", "b"), ("Ġ", "ab")]
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _finish(tokenizer, texts)


def _finish(tokenizer: Tokenizer, special: tuple[str, ...]) -> Tokenizer:
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in special]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def speak_as_the_demo(folder: Path) -> None:
    """The demo's tokenizer, for a model with a vocabulary of its size."""
    for name in DEMO_FILES:
        shutil.copy(DEMO_DIR / name, folder)


def be_another(folder: Path) -> None:
    """Nobody takes a model with the demo's tokenizer for the demo any more.

    Whoever speaks as the demo does is compared with its original on thousands of tokens more, which
    takes most of the time of a tiny compression.
    """
    with (folder / DEMO_FILES[0]).open("a") as file:
        file.write("\n")


BACKENDS = {"sentencepiece-like": sentencepiece_like, "byte-level": byte_level}


def ours(kind: str) -> OurTokenizer:
    """The engine's tokenizer around one of the two."""
    return OurTokenizer(BACKENDS[kind](), SPECIAL, CHAT_TEMPLATE)
