"""Processes that start at once: forked from one that has imported everything already.

``run`` and ``start`` are ``subprocess.run`` and ``subprocess.Popen`` for commands of Python: the
first word is ``dimat`` or Python itself, followed by ``-m MODULE``, ``-c CODE`` or a file. Each is
a process all the same, in a group of its own: it is killed, frozen and interrupted like any other.
Only the seconds are saved that imports would take, and at the end the taking apart of what is in
memory; and networks that the server has looked at are known (``analyses.py``). So what Python and
libraries read of the environment as they start is the server's (``PYTHONHASHSEED``;
``OMP_NUM_THREADS`` is 1), and PyTorch is always loaded: tests of just that start a process from
nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import random
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LONG_S = 600.0  # whatever else the machine does, a test is not waited for longer
_NETWORK = 0x40000000  # CLONE_NEWNET
_ADDRESS = "DIMAT_FORK_SERVER"  # where the one of all workers is asked
_LENGTH = 8  # bytes of the length of a question
_PYTHON = {"python", sys.executable}


class Process(subprocess.Popen[str]):
    """A command in a process of its own; arguments are those of ``subprocess.Popen``.

    Args:
        words: The command.
        network: Name of the network namespace that it lives in, if not in that of the test.
    """

    def __init__(self, words: Sequence[str], *, network: str = "", **settings: Any) -> None:
        self._network = network
        super().__init__(list(words), **{"text": True, "stdin": subprocess.DEVNULL} | settings)

    def _execute_child(self, words: Any, *given: Any) -> None:
        cwd, env, pipes = given[4], given[5], given[9:15]
        p2cread, _, _, c2pwrite, _, errwrite = pipes
        question = {
            "words": words,
            "cwd": os.fspath(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "network": self._network,
        }
        own = [i if fd == -1 else fd for i, fd in enumerate((p2cread, c2pwrite, errwrite))]
        try:
            self.pid = _server().ask(question, own)
        finally:
            self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]
        self._child_created = True

    def _internal_poll(self, _deadstate: int | None = None) -> int | None:
        forgotten = _deadstate is not None  # nobody will ask again; the server ends it
        if self.returncode is None and not forgotten:
            self.returncode = _server().ask({"ended": self.pid})
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        end = time.monotonic() + (LONG_S if timeout is None else timeout)
        while self._internal_poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.args, timeout or LONG_S)
            time.sleep(0.005)
        return self.returncode


start = Process


def run(
    words: Sequence[str], *, input: str | None = None, timeout: float = LONG_S, **settings: Any
) -> subprocess.CompletedProcess[str]:
    """A command that is waited for, its output captured: ``subprocess.run`` otherwise."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with Process(words, **{**pipes, **settings}) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


class Server:
    """The process that others are forked from; those that are left end with whom they serve.

    Args:
        talk: Where it is asked.
    """

    def __init__(self, talk: socket.socket) -> None:
        self._talk, self._one_asks = talk, threading.Lock()

    def ask(self, question: Mapping[str, object], pipes: Sequence[int] = (0, 1, 2)) -> Any:
        """What it answers."""
        text = json.dumps(question).encode()
        with self._one_asks:
            socket.send_fds(self._talk, [len(text).to_bytes(_LENGTH, "big")], pipes)
            self._talk.sendall(text)
            answer = self._talk.recv(64)
        assert answer, "the fork server is gone"
        return json.loads(answer)


def share() -> None:
    """Begin the server that this process and all that it starts will ask."""
    _server()


_one_begins = threading.Lock()


def _server() -> Server:
    """The one of these tests, which ends with them."""
    with _one_begins:
        return _asked()


@cache
def _asked() -> Server:
    if _ADDRESS not in os.environ:
        _begin()
    talk = socket.socket(socket.AF_UNIX)
    talk.connect(os.environ[_ADDRESS])
    atexit.register(talk.close)
    return Server(talk)


def _begin() -> None:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    os.environ[_ADDRESS] = f"{folder}/socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.environ[_ADDRESS])
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server", str(listener.fileno())],
            cwd=ROOT,
            # as the commands set it themselves, where they import PyTorch
            env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "FATAL"},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C of the tests is not its own
            pass_fds=[listener.fileno()],
        )
    atexit.register(process.wait, LONG_S)


# --- in the server ----------------------------------------------------------------------------


def _serve(listener: socket.socket) -> dict[str, Any] | None:
    """Fork when told to: None when nobody can ask any more, and in the child what it becomes."""
    living: dict[socket.socket, set[int]] = {listener.accept()[0]: set()}
    while living:
        for asked in select.select([listener, *living], [], [])[0]:
            if asked is listener:
                living[listener.accept()[0]] = set()
            elif not (received := _received(asked)):
                _end_all(living.pop(asked))
                asked.close()
            elif _answer(asked, *received, living[asked]):
                for own in living:
                    own.close()
                return {**received[0], "pipes": received[1]}
    return None


def _received(asked: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next question, and the files of a child's input, output and errors."""
    head, pipes, _, _ = socket.recv_fds(asked, _LENGTH, 3)
    if len(head) < _LENGTH:
        return None
    length = int.from_bytes(head, "big")
    text = asked.recv(length, socket.MSG_WAITALL)
    return (json.loads(text), pipes) if len(text) == length else None


def _answer(
    asked: socket.socket, question: Mapping[str, Any], pipes: Sequence[int], living: set[int]
) -> bool:
    """Whether this is the child that was asked for; whoever asked is told which it is."""
    answer: int | None
    if "words" in question:
        if not (answer := os.fork()):
            return True
        os.setpgid(answer, answer)  # as the child does: whoever is first
        living.add(answer)
    else:
        pid, status = os.waitpid(question["ended"], os.WNOHANG)
        answer = os.waitstatus_to_exitcode(status) if pid else None
        living.discard(pid)
    for pipe in pipes:
        os.close(pipe)
    with contextlib.suppress(BrokenPipeError):
        asked.sendall(json.dumps(answer).encode())
    return False


def _end_all(living: set[int]) -> None:
    for pid in living:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _become(question: Mapping[str, Any]) -> None:
    """Be a process that was started with these words, in this folder and environment."""
    os.setpgid(0, 0)
    if question["network"]:
        namespace = os.open(f"/run/netns/{question['network']}", os.O_RDONLY)
        assert ctypes.CDLL(None).setns(namespace, _NETWORK) == 0
        os.close(namespace)
    for number, pipe in enumerate(question["pipes"]):
        os.dup2(pipe, number)
        os.close(pipe)
    _imports_from(os.environ.get("PYTHONPATH", ""), question["env"].get("PYTHONPATH", ""))
    os.environ.clear()
    os.environ.update(question["env"])
    os.chdir(question["cwd"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _forget_what_was_drawn()


def _imports_from(before: str, now: str) -> None:
    """The folders of ``PYTHONPATH``, in place of the server's own and its working folder."""
    for folder in [sys.path[0], *before.split(os.pathsep)]:
        if folder in sys.path:
            sys.path.remove(folder)
    sys.path[:0] = [str(Path(folder).resolve()) for folder in now.split(os.pathsep) if folder]


def _forget_what_was_drawn() -> None:
    import numpy as np
    import torch

    random.seed()
    np.random.seed()
    torch.seed()


def _execute(words: Sequence[str]) -> None:
    """What Python does with its words."""
    first, *rest = words
    if first == "dimat":
        first, rest = sys.executable, ["-m", "dimat", *rest]
    assert first in _PYTHON, f"{first} is not a command of Python"
    if rest[0] == "-m":
        sys.argv[:] = rest[1:]
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(rest[1], run_name="__main__", alter_sys=True)
    elif rest[0] == "-c":
        sys.argv[:] = ["-c", *rest[2:]]
        sys.path.insert(0, "")
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[1], "<string>", "exec"), main.__dict__)
    else:
        sys.argv[:] = rest
        sys.path.insert(0, str(Path(rest[0]).resolve().parent))
        runpy.run_path(rest[0], run_name="__main__")


def _end(words: Sequence[str]) -> None:
    """Do what the words say and end as Python ends, but for taking apart what is in memory."""
    code = 1
    try:
        _execute(words)
        code = 0
    except SystemExit as stop:
        if isinstance(stop.code, int | None):
            code = stop.code or 0
        else:
            print(stop.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if code < 0:  # as Python tells a shell
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code)


def _warm() -> None:
    """Do once what commands do first, so that all that it imports is there."""
    import torch

    torch.set_num_threads(1)  # a process with threads cannot be forked
    import dimat
    import dimat.cli

    for module in pkgutil.walk_packages(dimat.__path__, "dimat."):
        if not module.name.endswith("__main__") and "integrations." not in module.name:
            importlib.import_module(module.name)
    from tests import analyses

    import dimat.experiment.setup

    dimat.experiment.setup.analyze = analyses.analyze
    for model in ("mlp", "cnn"):
        config = dimat.RunConfig(threads=1, width=0.25, model=model)
        assert dimat.experiment.setup.make_setup(config).analysis
    in_place = torch.nn.ReLU(inplace=True)  # its graph is made functional
    assert dimat.find_symmetry(in_place, torch.zeros(2, 3)).groups == ()
    assert all(map(dimat.cli._parser, dimat.cli._COMMANDS))
    tqdm = sys.modules.get("tqdm")  # PyTorch's exporter shows progress
    if tqdm and tqdm.tqdm.monitor:
        tqdm.tqdm.monitor.exit()
        tqdm.tqdm.monitor = None
    assert threading.active_count() == 1
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    _warm()
    with socket.socket(fileno=int(sys.argv[1])) as _listener:
        _question = _serve(_listener)
    if _question:
        _become(_question)
        _end(_question["words"])
