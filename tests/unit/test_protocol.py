"""Every message of the protocol survives the wire, and nothing else is taken for one."""

import dataclasses
import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import protocol
from engine.errors import ProtocolError

REQUESTS = get_args(protocol.Request)
EVENTS = get_args(protocol.Event)

st.register_type_strategy(float, st.floats(allow_nan=False))
st.register_type_strategy(str, st.text(max_size=20))


@pytest.mark.parametrize("cls", REQUESTS)
@given(data=st.data())
def test_requests_survive_the_wire(cls: type, data: st.DataObject) -> None:
    request = data.draw(st.from_type(cls))
    line = protocol.encode(request)
    assert "\n" not in line
    assert protocol.decode_request(line) == request


@pytest.mark.parametrize("cls", EVENTS)
@given(data=st.data())
def test_events_survive_the_wire(cls: type, data: st.DataObject) -> None:
    event = data.draw(st.from_type(cls))
    line = protocol.encode(event)
    assert "\n" not in line
    assert protocol.decode_event(line) == event


def test_defaults_need_not_be_sent() -> None:
    line = '{"type":"Generate","id":3,"messages":[{"role":"user","content":"hi"}]}'
    assert protocol.decode_request(line) == protocol.Generate(
        3, (protocol.Message("user", "hi"),), protocol.SamplingOptions()
    )


def generate(**changes: Any) -> dict[str, Any]:
    return {"type": "Generate", "id": 1, "messages": [], **changes}


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"type": "Nothing"},
        {"type": ["Cancel"]},
        {"type": "Token", "id": 1, "text": "an event"},
        {"type": "Cancel"},
        {"type": "Cancel", "id": "1"},
        {"type": "Cancel", "id": True},
        {"type": "Cancel", "id": 1.0},
        {"type": "Cancel", "id": 1, "more": 2},
        {"type": "SetPruning", "mode": "sometimes"},
        {"type": "Load", "model": None},
        {"type": "Load", "model": "x", "context": "long"},
        generate(messages="hi"),
        generate(messages=["hi"]),
        generate(messages=[{"role": "wizard", "content": "hi"}]),
        generate(messages=[{"role": "user", "content": None}]),
        generate(stop="word"),
        generate(sampling={"temperature": "hot"}),
        [1, 2],
        "Cancel",
        None,
    ],
)
def test_anything_else_is_refused(raw: Any) -> None:
    with pytest.raises(ProtocolError):
        protocol.decode_request(json.dumps(raw))


@given(st.text())
def test_no_text_makes_decoding_fail_otherwise(text: str) -> None:
    try:
        request = protocol.decode_request(text)
    except ProtocolError:
        return
    assert isinstance(request, REQUESTS)


def test_whole_numbers_are_taken_for_fractions_only_where_fractions_are_meant() -> None:
    options = protocol.from_dict(protocol.SamplingOptions, {"temperature": 1, "top_k": 5})
    assert options == protocol.SamplingOptions(temperature=1.0, top_k=5)
    assert isinstance(options.temperature, float)


def test_messages_are_frozen() -> None:
    for cls in (*REQUESTS, *EVENTS):
        assert dataclasses.fields(cls) is not None
        assert cls.__dataclass_params__.frozen
