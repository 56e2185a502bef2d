"""How a run grows with its rounds: seconds of a round, memory, files, its report, going on.

.venv/bin/python -m benchmarks.many_rounds            # 10,000 rounds of wa and dimat; 20 minutes
.venv/bin/python -m benchmarks.many_rounds --small    # 1,000 rounds of wa; a minute

A tiny run (an mlp of 2 agents, 100 digits, one step a round), evaluated and checkpointed as by
default, in a process of its own with one thread, which is interrupted before its last round. Then
it is reported and goes on; and so is and does one of a tenth of the rounds. Seconds are of
processor time:

a round    medians of an early hundredth of the rounds (at least ten), and of the last hundredth
memory     that the process holds more at the end than half-way, by round
folder     files and bytes: of checkpoints the last two are kept, lines grow
report     of `dimat report`, and bytes of its page
going on   from the call of `dimat.resume` until a round is done
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch
from benchmarks.aims import beside_aim
from benchmarks.first import DIMAT, processor_s

import dimat
from dimat import RunConfig
from dimat.errors import Interrupted
from dimat.experiment.config.config import CheckpointConfig, DataConfig
from dimat.experiment.progress import Silent

PAGE = os.sysconf("SC_PAGE_SIZE")
FLAT = 1.2  # a late round / an early one: single runs on a machine that is shared
BYTES = 1000  # that a round may leave in the process
REPORT_S = 10


class Rounds(Silent):
    """Notes processor time and memory at the end of each round, and interrupts after one.

    Args:
        last: The last round that is done and kept.
    """

    def __init__(self, last: int) -> None:
        self.last = last
        self.times: dict[int, float] = {}
        self.memory: dict[int, int] = {}

    def note(self, text: str) -> None:
        if " round " not in text:
            return
        number = int(text.split(" round ")[1].split()[0])
        self.times[number] = time.process_time()
        self.memory[number] = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
        if number > self.last:  # the checkpoint of the round before it is written
            raise KeyboardInterrupt


def case(method: str, rounds: int, folder: str) -> dict[str, float]:
    """One run in this process, interrupted after so many rounds."""
    config = RunConfig(
        agents=2,
        rounds=rounds + 3,
        pretrain_epochs=1,
        local_steps=1,
        batch_size=16,
        method=method,
        controls=(),
        width=0.1,
        threads=1,
        data=DataConfig(split="iid", train_images=100),
        checkpoint=CheckpointConfig(every=1),  # as often as can be
        out=folder,
    )
    watch = Rounds(rounds)
    with suppress(Interrupted):
        dimat.run(config, watch)
    part = max(rounds // 100, 10)
    times, memory = watch.times, watch.memory

    def a_round(last: int) -> float:
        return statistics.median(times[k] - times[k - 1] for k in range(last - part + 1, last + 1))

    return {
        "early": a_round(2 * part),
        "late": a_round(rounds),
        "bytes": (memory[rounds] - memory[rounds // 2]) / (rounds - rounds // 2),
    }


def going_on(rounds: int, folder: str) -> dict[str, float]:
    """Seconds from the call until the round after the last one is done, in this process."""
    watch, start = Rounds(rounds), time.process_time()
    with suppress(Interrupted):
        dimat.resume(folder, watch)
    return {"resume": watch.times[rounds + 1] - start}


def apart(*words: object) -> dict[str, float]:
    """A part in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.many_rounds", "--part", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measured(method: str, rounds: int) -> dict[str, float]:
    """All figures of a run of so many rounds."""
    with tempfile.TemporaryDirectory() as parent:
        folder, page = f"{parent}/run", f"{parent}/page"
        found = apart("run", method, rounds, folder)
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        found |= {"files": len(files), "size": sum(path.stat().st_size for path in files)}
        found["report"] = processor_s([*DIMAT, "report", folder, "--out", page])
        found["page"] = Path(page, "index.html").stat().st_size
        return found | apart("resume", rounds, folder)


def show(method: str, few: int, many: int) -> None:
    """A row for each figure: of few rounds, of many, and its growth beside the aim."""
    a, b = measured(method, few), measured(method, many)
    late, memory = b["late"] / b["early"], b["bytes"]
    by_round = (b["size"] - a["size"]) / (many - few)
    rows = (
        ("an early round, ms", "early", 1e3, ""),
        ("a late round, ms", "late", 1e3, f"{late:.2f} early ones ({beside_aim(late, FLAT)})"),
        ("more memory, bytes a round", "bytes", 1, beside_aim(memory, BYTES)),
        ("files", "files", 1, beside_aim(b["files"], a["files"])),
        ("folder, MB", "size", 1e-6, f"{by_round:,.0f} bytes a round"),
        ("report, s", "report", 1, beside_aim(b["report"], REPORT_S)),
        ("page, MB", "page", 1e-6, ""),
        ("going on, s", "resume", 1, ""),
    )
    for what, name, scale, judged in rows:
        cells = " | ".join(f"{scale * own[name]:,.4g}" for own in (a, b))
        print(f"| {method}: {what} | {cells} | {judged} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_rounds")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--part", nargs="+", metavar="WORD", help="run or resume, in this process")
    own = parser.parse_args()
    if own.part:
        what, *words = own.part
        if what == "run":
            print(json.dumps(case(words[0], int(words[1]), words[2])))
        else:
            print(json.dumps(going_on(int(words[0]), words[1])))
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    many = 1_000 if own.small else 10_000
    print(f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    print(f"| | {many // 10:,} rounds | {many:,} rounds | |\n|---|---|---|---|", flush=True)
    for method in ("wa",) if own.small else ("wa", "dimat"):
        show(method, many // 10, many)


if __name__ == "__main__":
    main()
