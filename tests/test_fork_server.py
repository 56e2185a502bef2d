"""A process that was forked from the server is as one that was started from nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.fork_server import ROOT, run, start

PYTHON = sys.executable
SHAPE = """
import json, os, signal, sys, threading
print(json.dumps({
    "argv": sys.argv, "stdin": sys.stdin.read(), "folder": os.getcwd(), "main": __name__,
    "environment": dict(sorted(os.environ.items())), "path": sys.path,
    "files": len(os.listdir("/proc/self/fd")), "group": os.getpgrp() == os.getpid(),
    "signals": [str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)],
    "threads": threading.active_count(),
}))
"""


def test_it_has_the_words_folder_environment_input_and_signals_of_its_own(tmp_path: Path) -> None:
    fixed = {k: v for k, v in os.environ.items() if k in {"PATH", "HOME", "LANG"}}
    env = {**fixed, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path), "OWN": "ä"}
    for words in (["-c", SHAPE, "a", "b c"], [str(_script(tmp_path)), "a"]):
        given = {"cwd": tmp_path, "env": env, "input": "line\n"}
        new = subprocess.run(
            [PYTHON, *words], **given, text=True, capture_output=True, process_group=0
        )
        own = run([PYTHON, *words], **given)
        assert (own.returncode, own.stderr) == (0, new.stderr)
        assert json.loads(own.stdout) == json.loads(new.stdout)


def _script(folder: Path) -> Path:
    file = folder / "script.py"
    file.write_text(SHAPE)
    return file


@pytest.mark.parametrize(
    ("code", "ended", "told"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("raise SystemExit('a word')", 1, "a word\n"),
        ("raise SystemExit", 0, ""),
        ("raise ValueError('a word')", 1, "ValueError: a word\n"),
        ("import os; os.kill(os.getpid(), 15)", -15, ""),
        ("raise KeyboardInterrupt", -2, "KeyboardInterrupt\n"),
        ("import atexit, sys; atexit.register(lambda: print('z', file=sys.stderr))", 0, "z\n"),
        (
            "import sys, threading as t, time\n"
            "t.Thread(target=lambda: (time.sleep(0.1), print('z', file=sys.stderr))).start()",
            0,
            "z\n",
        ),
    ],
)
def test_it_ends_as_python_ends(code: str, ended: int, told: str) -> None:
    own = run([PYTHON, "-c", code])
    assert (own.returncode, own.stdout) == (ended, "")
    assert own.stderr.endswith(told)


def test_dimat_is_the_command_and_its_module() -> None:
    for words in (["dimat"], [PYTHON, "-m", "dimat"]):
        own = run([*words, "run", "--agens", "3"])
        assert (own.returncode, own.stdout) == (2, "")
        assert own.stderr == "dimat: error: unknown setting 'agens': did you mean 'agents'?\n"


def test_no_two_draw_the_same() -> None:
    code = "import random, numpy, torch; print(random.random(), numpy.random.rand(), torch.rand(1))"
    first, second = (run([PYTHON, "-c", code]).stdout.split() for _ in range(2))
    assert not set(first) & set(second)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_is_ended_by_a_signal(number: signal.Signals) -> None:
    code = "print('here', flush=True); import time; time.sleep(10**6)"
    with start([PYTHON, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as own:
        assert own.stdout
        assert own.stdout.readline() == "here\n"
        assert own.poll() is None
        os.killpg(own.pid, number)
        assert own.wait() == own.returncode == own.poll() == -number


SERVED = """
import os, socket, time
from tests.fork_server import Server, _serve

def client():
    talk = socket.socket(socket.AF_UNIX)
    talk.connect("here")
    return talk

def lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

listener = socket.socket(socket.AF_UNIX)
listener.bind("here")
listener.listen()
if not (pid := os.fork()):  # a server of its own, without imports of its own
    if _serve(listener):
        time.sleep(10**6)
    os._exit(0)
listener.close()
first, second = client(), client()
child, other = (Server(own).ask({"words": []}) for own in (first, second))
first.send(b"a" * 7)  # half a question: whoever asked was killed
first.close()
while Server(second).ask({"ended": other}) is None and lives(child):
    time.sleep(0.01)
print(lives(child), lives(other))
second.close()
os.waitpid(pid, 0)
print(lives(other))
"""


def test_nothing_is_left_of_one_who_asked_and_all_ends_with_the_last(tmp_path: Path) -> None:
    own = run([PYTHON, "-c", SERVED], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (own.stdout, own.stderr) == ("False True\nFalse\n", "")
