"""Exported chats: JSON comes back exactly, strangers' files are refused, Markdown stays whole."""

import json
import string
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from app import chat_files
from app.chat_files import ChatFileError, export_chat, file_name, free_path, import_chat, read_chat
from app.chat_markdown import sampling_words, to_markdown
from app.history import Figures, History, MadeWith, WholeChat, WholeMessage
from app.history.store import clean_title
from app.render import safe_text
from engine.protocol import SamplingOptions

safe = st.text(max_size=30).map(safe_text)
numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**40)
samplings = st.builds(
    SamplingOptions,
    temperature=numbers,
    top_k=counts,
    top_p=numbers,
    min_p=numbers,
    repetition_penalty=numbers,
    seed=st.none() | st.integers(),
)
makings = st.builds(
    MadeWith,
    model=safe,
    nominal_bits=st.none() | numbers,
    device=safe,
    system=safe,
    pruning=st.sampled_from(["odp", "off"]),
    sampling=samplings,
    max_tokens=st.none() | counts,
    left_out=counts,
)
figures = st.builds(
    Figures,
    tokens=counts,
    prompt_tokens=counts,
    tokens_per_second=numbers,
    time_to_first_token=numbers,
    prune_ratio=numbers,
    activated_fraction=numbers,
    finish_reason=safe,
)
moments = st.floats(0, 4e9)
messages = st.builds(
    WholeMessage,
    role=st.sampled_from(["system", "user", "assistant"]),
    content=safe,
    state=st.sampled_from(["writing", "done", "stopped", "failed"]),
    created=moments,
    summary=safe,
    made=st.none() | makings,
    figures=st.none() | figures,
)


@st.composite
def chats(draw: st.DrawFn) -> WholeChat:
    """Any tree of messages, any of them the end of the current line."""
    said = draw(st.lists(messages, max_size=6))
    parents = [
        draw(st.none() | st.integers(0, place - 1)) if place else None for place in range(len(said))
    ]
    return WholeChat(
        title=clean_title(draw(safe)),
        model=draw(safe),
        system=draw(st.none() | safe),
        preset=draw(safe),
        created=draw(moments),
        updated=draw(moments),
        leaf=draw(st.integers(0, len(said) - 1)) if said else None,
        messages=tuple(
            replace(message, parent=parent) for message, parent in zip(said, parents, strict=True)
        ),
    )


def a_chat(*texts: str, **changes: Any) -> WholeChat:
    """Told in turn by the user and the model."""
    said = tuple(
        WholeMessage(
            "assistant" if place % 2 else "user",
            text,
            "done",
            1e9,
            parent=place - 1 if place else None,
        )
        for place, text in enumerate(texts)
    )
    leaf = len(texts) - 1 if texts else None
    return replace(WholeChat("Ducks", "demo", None, "", 1e9, 1e9, leaf, said), **changes)


def write(path: Path, raw: Any) -> Path:
    path.write_text(raw if isinstance(raw, str) else json.dumps(raw))
    return path


# --- JSON -----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(chats())
def test_what_is_exported_is_imported_exactly(
    tmp_path_factory: pytest.TempPathFactory, chat: WholeChat
) -> None:
    folder = tmp_path_factory.mktemp("round")
    here, there = History(Path(":memory:")), History(Path(":memory:"))
    id = here.write_whole(chat)
    assert here.read_whole(id) == chat
    export_chat(here, id, folder / "chat.json", "json")
    again = import_chat(there, folder / "chat.json")
    assert there.read_whole(again) == chat
    assert (folder / "chat.json").read_bytes().isascii()


def good() -> dict[str, Any]:
    chat = a_chat("Do ducks swim?", "They do.")
    return {"format": "mc-chat chat", "version": 1, "chat": asdict(chat)}


def changed(**changes: Any) -> dict[str, Any]:
    raw = good()
    return raw | {"chat": raw["chat"] | changes}


def with_message(**changes: Any) -> dict[str, Any]:
    first, second = good()["chat"]["messages"]
    return changed(messages=[first, second | changes])


REFUSED = {
    "empty": "",
    "no object": "[]",
    "something else": '{"format": "other"}',
    "no JSON": "{",
    "nested": "[" * 100_000,
    "nested within": json.dumps(good()).replace('"demo"', "[" * 900 + "]" * 900),
    "not a number": json.dumps(changed(created=float("nan"))),
    "infinite": json.dumps(good()).replace("1000000000.0", "1e999"),
    "newer": good() | {"version": 2},
    "unknown key": changed(secret=1),
    "missing": {"format": "mc-chat chat", "version": 1},
    "no chat": good() | {"chat": 3},
    "role": with_message(role="root"),
    "state": with_message(state="dancing"),
    "text": with_message(content=3),
    "huge text in an error": with_message(content=["x" * 10_000]),
    "own parent": with_message(parent=1),
    "later parent": with_message(parent=2),
    "negative parent": with_message(parent=-1),
    "leaf": changed(leaf=2),
    "no leaf": changed(leaf=None),
    "leaf of nothing": changed(messages=[]),
    "before time": with_message(created=-1.0),
    "after time": with_message(created=1e18),
    "a fraction": good() | {"version": 1.5},
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_refused_in_one_line_and_add_nothing(name: str, tmp_path: Path) -> None:
    history = History(Path(":memory:"))
    path = write(tmp_path / "chat.json", REFUSED[name])
    with pytest.raises(ChatFileError) as caught:
        import_chat(history, path)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    assert len(line) < len(str(path)) + 300
    assert history.chats() == []


def test_a_file_of_too_many_messages_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_files, "MOST_MESSAGES", 1)
    with pytest.raises(ChatFileError, match="2 messages, more than 1"):
        read_chat(write(tmp_path / "chat.json", good()))


def test_a_good_file_is_not_refused(tmp_path: Path) -> None:
    assert read_chat(write(tmp_path / "chat.json", good())).title == "Ducks"


def test_a_file_that_is_too_large_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.json_file.LARGEST_BYTES", 100)
    with pytest.raises(ChatFileError, match="more than 100 bytes"):
        read_chat(write(tmp_path / "chat.json", good()))


def test_no_file_no_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(ChatFileError, match="cannot be read"):
            read_chat(path)


def test_terminal_controls_and_half_characters_are_dropped(tmp_path: Path) -> None:
    made = asdict(MadeWith("de\x1bmo", device="c\x9bpu", system="\ud800s"))
    raw = with_message(content="a\x1b[2J\x00b\u202e", summary="\x07", made=made)
    raw["chat"]["title"] = "Du\ncks\x1b[31m"
    history = History(Path(":memory:"))
    chat = history.read_whole(import_chat(history, write(tmp_path / "chat.json", raw)))
    assert chat.title == "Du cks[31m"
    reply = chat.messages[1]
    assert (reply.content, reply.summary) == ("a[2Jb", "")
    assert reply.made == MadeWith("demo", device="cpu", system="s")


# --- files ----------------------------------------------------------------------------------------


@given(st.text(max_size=300))
@example("CON")
@example("con.json")
@example("COM1.")
@example("../../etc/passwd")
@example("C:\\Windows")
@example("-rf")
@example(".hidden")
@example("ends with a dot. . ")
@example("ü" * 200)
def test_names_are_safe_everywhere(title: str) -> None:
    name = file_name(title, "md")
    stem = name.removesuffix(".md")
    assert name.endswith(".md")
    assert 0 < len(name.encode()) < 120
    assert not set(name) & set('<>:"/\\|?*')
    assert name.isprintable()
    assert stem[0] not in ".- "
    assert stem[-1] not in ". "
    device = name.split(".")[0].upper()
    assert device not in {"CON", "PRN", "AUX", "NUL"}
    assert not (device[:3] in {"COM", "LPT"} and len(device) == 4)


def test_ordinary_titles_stay_as_they_are() -> None:
    assert file_name("What is 17 + 25, Müller?", "json") == "What is 17 + 25, Müller.json"
    assert file_name("東京 🙂", "md") == "東京 🙂.md"
    assert file_name("", "md") == "chat.md"
    assert file_name("con", "md") == "chat con.md"


def test_a_file_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    history = History(Path(":memory:"))
    chat = history.write_whole(a_chat("a"))
    path = free_path(tmp_path, "a.md")
    assert path == tmp_path / "a.md"
    export_chat(history, chat, path, "md")
    with pytest.raises(ChatFileError, match="is there already"):
        export_chat(history, chat, path, "json")
    assert path.read_text().startswith("# Ducks")
    assert free_path(tmp_path, "a.md") == tmp_path / "a (2).md"


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    history = History(Path(":memory:"))
    chat = history.write_whole(a_chat("a"))
    with pytest.raises(ChatFileError, match="cannot be written"):
        export_chat(history, chat, tmp_path / "missing" / "a.md", "md")


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(Path(":memory:"))
    chat = history.write_whole(a_chat("a"))
    monkeypatch.setattr(chat_files, "to_text", lambda *_: "x" * 100_000)
    if not Path("/dev/full").exists():
        pytest.skip("no full disk to be had here")
    (tmp_path / "full").symlink_to("/dev/full")
    opened = Path.open

    def open_full(self: Path, mode: str, **options: Any) -> Any:
        opened(self, mode, **options).close()
        return opened(Path("/dev/full"), "w", **options)

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(ChatFileError, match="No space left"):
        export_chat(history, chat, tmp_path / "a.md", "md")
    assert not (tmp_path / "a.md").exists()


# --- Markdown -------------------------------------------------------------------------------------


def test_markdown_tells_everything_of_the_current_line(monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = SamplingOptions(temperature=0.5, seed=7)
    made = MadeWith("demo", 2.5, "cuda:0", "Be *brief*.\nPlease.", "odp", sampling)
    chat = a_chat("Do ducks swim?", "They do.\n\n```py\nswim()\n```")
    question, reply = chat.messages
    reply = replace(reply, made=made, summary="12 tokens")
    aside = WholeMessage("assistant", "Another branch", "done", 1e9, parent=0)
    stopped = WholeMessage("user", "And geese?", "done", 1e9, parent=1)
    half = WholeMessage(
        "assistant", "Gee", "writing", 1e9, parent=3, made=replace(made, nominal_bits=None)
    )
    text = to_markdown(replace(chat, messages=(question, reply, aside, stopped, half), leaf=4))
    assert text.startswith("# Ducks\n\n- **Model:** demo, 2.50 bits; later demo, 16 bits\n")
    assert "- **Device:** cuda:0\n" in text
    assert "- **Sampling:** temperature 0.5, min-p 0.05, seed 7\n" in text
    assert "- **Pruning:** odp\n" in text
    assert "- **System prompt:** Be \\*brief\\*. Please.\n" in text
    assert "- **Begun:** 2001-09-0" in text
    assert text.endswith(
        "## You\n\nDo ducks swim?\n\n"
        "## Reply · demo, 2.50 bits\n\nThey do.\n\n```py\nswim()\n```\n\n*12 tokens*\n\n"
        "## You\n\nAnd geese?\n\n## Reply · demo, 16 bits\n\nGee\n\n*interrupted*\n"
    )
    assert "Another branch" not in text


def test_one_model_is_named_once() -> None:
    chat = a_chat("a", "b", "c", "d")
    made = MadeWith("demo", 2.5)
    said = tuple(
        replace(each, made=made) if each.role == "assistant" else each for each in chat.messages
    )
    text = to_markdown(replace(chat, messages=said))
    assert text.count("demo") == 1
    assert text.count("## Reply\n") == 2


def test_an_empty_chat_is_a_header() -> None:
    text = to_markdown(a_chat(title=""))
    assert text.startswith("# Untitled\n\n- **Model:** demo\n")


FENCES = ["```", "~~~", "````py", "  ```", "   ```", "`"]
HTML = ["<!--", "-->", "<script>", "<div>"]
OTHERS = ["text", "- item", "    code", "", "> quote", "1. one", "## You", "===", "[a]: b"]
pieces = st.lists(st.sampled_from([*FENCES, *HTML, *OTHERS]), max_size=6)


@settings(deadline=None)
@given(lines=pieces)
@example(lines=["- item", "  ```", "text"])
@example(lines=["<!--"])
@example(lines=["> ```", "> x"])
@example(lines=["~~~~", "```"])
def test_no_message_swallows_the_next(lines: list[str]) -> None:
    content = "\n".join(lines)
    text = to_markdown(a_chat(content, "the end"))
    tokens = MarkdownIt("commonmark").parse(text)
    tops = [place for place, token in enumerate(tokens) if token.level == 0]
    headings = [tokens[place + 1].content for place in tops if tokens[place].type == "heading_open"]
    assert headings[-1] == "Reply"
    assert tokens[-2].content == "the end"
    assert not content.strip() or content in text
    # Whole fences and comments stay as they are: nothing is put around them.
    if not set(content) & set("`~<"):
        assert f"## You\n\n{content}\n\n## Reply" in text or not content.strip()


def test_sampling_in_words() -> None:
    words = sampling_words(SamplingOptions(0, 40, 0.9, 0, 1.1, None))
    assert words == "temperature 0, top-k 40, top-p 0.9, repetition penalty 1.1"
    assert set(words) <= set(string.printable)
