"""The loop from prompt to reply, on a tiny random model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.checkpoint import load_model
from engine.decoding.choice import device_steps
from engine.decoding.plain import PlainOperations
from engine.decoding.request import Request
from engine.decoding.state import LOOK_TOKENS
from engine.decoding.steps import HostSteps
from engine.errors import ContextFullError, UsageError
from engine.generation import Generator, Reply
from engine.manifest import read_manifest
from engine.protocol import Memory, SamplingOptions
from engine.pruning import NO_PRUNING, OdpPruning
from engine.tokenizer import Tokenizer
from tests.checkpoints_for_tests import write_tiny_checkpoint

GREEDY = SamplingOptions(temperature=0)
PROMPT = [1, 3, 300, 301, 302, 303, 304, 4]
CONTEXT = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_checkpoint(path)
    return path


@pytest.fixture(params=["host", "device"])
def generator(folder: Path, request: pytest.FixtureRequest) -> Generator:
    """With steps on the host, and with those for a GPU, uncaptured and in plain torch."""
    generator = Generator(load_model(folder), Tokenizer.from_folder(folder), CONTEXT)
    if request.param == "device":
        generator.steps, _ = device_steps(generator, PlainOperations(), lambda run: run)
    return generator


def finish(generator: Generator, request: Request) -> tuple[str, Reply]:
    reply = generator.start(request)
    return "".join(reply), reply


def greedy_reference(generator: Generator, prompt: list[int], tokens: int) -> list[int]:
    """Without a cache: the whole text through the model for every token."""
    ids = list(prompt)
    for _ in range(tokens):
        with torch.inference_mode():
            ids.append(int(generator.model.forward(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


def test_greedy_is_what_the_model_says_without_a_cache(generator: Generator) -> None:
    expected = greedy_reference(generator, PROMPT, 12)
    assert 2 not in expected, "the random model must not end by itself here"
    text, reply = finish(generator, Request(PROMPT, GREEDY, max_tokens=12))
    assert text == generator.tokenizer.decode(expected).removeprefix(" ")
    assert (reply.finish_reason, reply.tokens, reply.prompt_tokens) == ("length", 12, len(PROMPT))


def test_a_continued_reply_is_the_rest_of_the_whole_one(generator: Generator) -> None:
    drawn = greedy_reference(generator, PROMPT, 12)
    whole, _ = finish(generator, Request(PROMPT, GREEDY, max_tokens=12))
    begun, _ = finish(generator, Request(PROMPT, GREEDY, max_tokens=5))
    so_far = Request([*PROMPT, *drawn[:5]], GREEDY, max_tokens=7, continues=True)
    rest, reply = finish(generator, so_far)
    assert begun + rest == whole
    assert reply.tokens == 7


def test_a_long_prompt_in_chunks_gives_the_same_reply(generator: Generator) -> None:
    whole, _ = finish(generator, Request(PROMPT, GREEDY, max_tokens=8))
    generator.forget()
    generator.prefill_chunk = 3
    chunked, _ = finish(generator, Request(PROMPT, GREEDY, max_tokens=8))
    assert chunked == whole


def test_the_next_turn_runs_only_what_is_new(generator: Generator) -> None:
    finish(generator, Request(PROMPT, GREEDY, max_tokens=6))
    said = greedy_reference(generator, PROMPT, 6)
    turn = [*PROMPT, *said[:4], 3, 500, 501, 4]
    expected = greedy_reference(generator, turn, 5)

    text, reply = finish(generator, Request(turn, GREEDY, max_tokens=5))
    assert text == generator.tokenizer.decode(expected).removeprefix(" ")
    # Two slots per token: the new part of the prompt, and all drawn tokens but the last.
    ran = reply.meter.counters.read()
    assert ran.tokens == len(turn) - (len(PROMPT) + 4) + 4


def test_the_same_prompt_again_runs_its_last_token_and_says_the_same(generator: Generator) -> None:
    first, _ = finish(generator, Request(PROMPT, GREEDY, max_tokens=6))
    again, reply = finish(generator, Request(PROMPT, GREEDY, max_tokens=6))
    assert again == first
    assert reply.meter.counters.read().tokens == 1 + 5


def test_the_seed_decides(generator: Generator) -> None:
    def sample(seed: int) -> str:
        generator.forget()
        sampling = SamplingOptions(temperature=2.0, min_p=0.0, seed=seed)
        return finish(generator, Request(PROMPT, sampling, max_tokens=10))[0]

    assert sample(3) == sample(3)
    assert sample(3) != sample(4)


def test_the_end_token_stops_and_is_not_shown(generator: Generator) -> None:
    tokens = greedy_reference(generator, PROMPT, 4)
    generator.stop_ids = frozenset({tokens[2]})
    text, reply = finish(generator, Request(PROMPT, GREEDY))
    assert text == generator.tokenizer.decode(tokens[:2]).removeprefix(" ")
    assert (reply.finish_reason, reply.tokens) == ("stop", 2)


def test_a_stop_string_ends_the_reply_before_itself(generator: Generator) -> None:
    whole, _ = finish(generator, Request(PROMPT, GREEDY, max_tokens=12))
    stop = whole[5:9]
    assert whole.index(stop) == 5
    text, reply = finish(generator, Request(PROMPT, GREEDY, max_tokens=12, stop=(stop,)))
    assert text == whole[:5]
    assert reply.finish_reason == "stop"


def test_a_full_context_ends_the_reply(generator: Generator) -> None:
    generator.stop_ids = frozenset()
    _, reply = finish(generator, Request(PROMPT, GREEDY))
    assert reply.finish_reason == "context"
    assert reply.context_used == CONTEXT
    assert reply.tokens == CONTEXT - len(PROMPT) + 1  # the last one need not be cached


def test_a_prompt_that_leaves_no_room_is_refused_with_numbers(generator: Generator) -> None:
    with pytest.raises(ContextFullError, match=r"48 tokens .* holds 48.* up to 128"):
        generator.start(Request([5] * CONTEXT))
    assert generator.start(Request([5] * (CONTEXT - 1))).prompt_tokens == CONTEXT - 1


@pytest.mark.parametrize(
    "request_",
    [
        Request([]),
        Request(PROMPT, max_tokens=0),
        Request(PROMPT, SamplingOptions(temperature=-1)),
    ],
)
def test_senseless_requests_are_refused(generator: Generator, request_: Request) -> None:
    with pytest.raises(UsageError):
        generator.start(request_)


def test_cancelling_keeps_the_text_and_the_cache_goes_on(generator: Generator) -> None:
    whole, _ = finish(generator, Request(PROMPT, GREEDY, max_tokens=10))
    generator.forget()
    reply = generator.start(
        Request(PROMPT, GREEDY, max_tokens=10, cancelled=lambda: reply.tokens >= 4)
    )
    text = "".join(reply)
    assert reply.finish_reason == "cancelled"
    assert reply.tokens == (4 if isinstance(generator.steps, HostSteps) else 1 + LOOK_TOKENS)
    assert reply.context_used == len(PROMPT) + reply.tokens - 1
    assert whole.startswith(text)
    assert finish(generator, Request(PROMPT, GREEDY, max_tokens=10))[0] == whole


def test_cancelling_acts_between_the_chunks_of_a_prompt(generator: Generator) -> None:
    generator.prefill_chunk = 3
    text, reply = finish(
        generator, Request(PROMPT, GREEDY, cancelled=lambda: generator.cache.length == 3)
    )
    assert (text, reply.finish_reason, reply.tokens) == ("", "cancelled", 0)
    assert (reply.context_used, reply.meter.counters.read().tokens) == (3, 3)


def test_cancelling_acts_between_layers_and_leaves_nothing_of_the_chunk(
    generator: Generator,
) -> None:
    whole, _ = finish(generator, Request(PROMPT, GREEDY, max_tokens=6))
    generator.forget()
    asked: Iterator[bool] = iter([False, True])  # before the chunk, after the first layer
    _, reply = finish(generator, Request(PROMPT, GREEDY, cancelled=lambda: next(asked)))
    assert (reply.finish_reason, reply.context_used) == ("cancelled", 0)
    assert sum(reply.meter.counters.read().routed) == 0
    assert finish(generator, Request(PROMPT, GREEDY, max_tokens=6))[0] == whole


def test_leaving_a_reply_early_leaves_the_cache_whole(generator: Generator) -> None:
    whole, _ = finish(generator, Request(PROMPT, GREEDY, max_tokens=10))
    generator.forget()
    for _, piece in zip(range(3), generator.start(Request(PROMPT, GREEDY)), strict=False):
        assert isinstance(piece, str)
    assert finish(generator, Request(PROMPT, GREEDY, max_tokens=10))[0] == whole


def test_pruning_may_change_between_tokens_and_the_meter_shows_it(
    generator: Generator, folder: Path
) -> None:
    layers = len(read_manifest(folder).layers)
    everything = OdpPruning((1.1,) * layers, (1e30,) * layers)  # skips every second expert
    mode = [NO_PRUNING]
    reply = generator.start(Request(PROMPT, GREEDY, max_tokens=12, pruning=lambda: mode[0]))
    for drawn, _ in enumerate(reply, start=1):
        if drawn == 4:
            before = reply.meter.read(0, 0, Memory())
            mode[0] = everything
    after = reply.meter.read(0, 0, Memory())
    assert before.prune_ratio == 0
    pruned, ran = 12 - 4, len(PROMPT) + 12 - 1
    if isinstance(generator.steps, HostSteps):
        assert after.prune_ratio_now == 0.5, "since the reading before, all tokens were pruned"
    else:
        pruned = 12 - 1 - 2 * LOOK_TOKENS  # the look being read and the one begun before it
    assert after.prune_ratio == pytest.approx(0.5 * pruned / ran)
    assert after.prune_ratio_layers == pytest.approx((after.prune_ratio,) * layers)
    assert after.activated_params < before.activated_params
