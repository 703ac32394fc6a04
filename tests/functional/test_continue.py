"""A reply cut by length goes on: from the conversation through the engine and back."""

from pathlib import Path

import pytest

from app.conversation import Conversation
from app.history import History, MadeWith
from assets import DEMO_DIR
from engine.protocol import Finished, Generate, SamplingOptions
from engine.session import Session

GREEDY = SamplingOptions(temperature=0)


@pytest.fixture(scope="module")
def session() -> Session:
    """The demo in 16 bits: what a trained model writes, its tokenizer reads as the same tokens."""
    return Session.load(DEMO_DIR, "cpu", 256, lambda *_: None)


def answer(session: Session, request: Generate) -> Finished:
    reply = session.start(request, lambda: "off", lambda: False)
    text = "".join(session.run(reply))
    return session.finished(request.id, text, reply)


def test_two_halves_are_the_whole(session: Session, tmp_path: Path) -> None:
    chat = Conversation(History(tmp_path / "history.sqlite"), "demo", system="Be brief.")
    chat.using = MadeWith("demo", sampling=GREEDY, max_tokens=30, pruning="off")
    chat.say("Tell me a story about a duck.", 1)
    whole = answer(session, chat.request())
    chat.add(whole.text)
    chat.end("done", whole)

    chat.using = MadeWith("demo", sampling=GREEDY, max_tokens=11, pruning="off")
    chat.regenerate(2)
    half = answer(session, chat.request())
    chat.add(half.text)
    chat.end("done", half)
    chat.using = MadeWith("demo", sampling=GREEDY, max_tokens=19, pruning="off")
    chat.continue_reply(3)
    rest = answer(session, chat.request())
    chat.add(rest.text)
    record = chat.end("done", rest)

    assert (half.finish_reason, rest.tokens) == ("length", 19)
    assert rest.prompt_tokens == half.prompt_tokens + half.tokens
    assert record.content == whole.text
    assert record.figures is not None
    assert record.figures.tokens == 30
