"""Two programs at once on one history: nothing is lost, nobody waits long."""

import subprocess
import sys
from pathlib import Path

from app.history import History
from tests.chats_for_tests import old_history

REPOSITORY = Path(__file__).resolve().parents[2]
MESSAGES = 40

PROGRAM = """
import sys
from pathlib import Path
from app.conversation import Conversation
from app.history import History

history = History(Path(sys.argv[1]))
chat = Conversation(history, "demo", chat=1)
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    chat.say(f"{sys.argv[2]} asks {number}", number)
    chat.add("half ")
    chat.save()
    chat.add("and half")
    chat.end("done")
"""


def test_two_programs_open_an_old_file_and_talk_in_one_chat(tmp_path: Path):
    path = tmp_path / "history.sqlite"
    old_history(path, {"shared": ["a", "b"]})
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, path, name, str(MESSAGES)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("this", "that")
    ]
    for program in programs:
        assert program.stdout is not None
        program.stdout.readline()
    for program in programs:
        assert program.stdin is not None
        program.stdin.write("go\n")
        program.stdin.flush()
    for program in programs:
        _, complaints = program.communicate(timeout=60)
        assert (program.returncode, complaints) == (0, "")

    history = History(path)
    whole = history.read_whole(1)
    said = [message.content for message in whole.messages if message.role == "user"]
    assert sorted(said) == sorted(
        ["a", *(f"{name} asks {number}" for name in ("this", "that") for number in range(MESSAGES))]
    )
    replies = [message for message in whole.messages if message.role == "assistant"]
    assert {reply.content for reply in replies} == {"b", "half and half"}
    # Each program's line is unbroken, whatever the other did.
    for name in ("this", "that"):
        (end,) = history.search(f"{name} {MESSAGES - 1}")
        assert end.message is not None
        history.set_leaf(1, end.message)
        line = [message.content for message in history.messages(1)]
        assert [text for text in line if "asks" in text] == [
            f"{name} asks {number}" for number in range(MESSAGES)
        ]
