"""What ``dimat doctor`` finds: versions, the machine, extras, and a test of a few seconds."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import torch
from cryptography.hazmat.primitives.serialization import Encoding
from torch import Tensor, nn

from dimat.checkpoints import merge
from dimat.compat import lacks_bfloat16
from dimat.errors import first_line
from dimat.exchange import Message, Step, Talk, Traffic
from dimat.exchange.network.neighborhood import Neighborhood
from dimat.exchange.network.peers import FixedAddresses
from dimat.exchange.network.security import Security
from dimat.identity import Authority, Identity, request, require_tls13
from dimat.state import memory_bytes
from dimat.symmetry import find_symmetry
from dimat.tools.format import human_bytes

_WAIT_S = 60.0  # for a neighbor in the same process: whatever takes longer does not come
_OURS = {"dev", "docs", "zoo"}  # extras of those who change dimat
_INPUTS, _UNITS = 6, 16


@dataclass(frozen=True)
class Checkup:
    """One thing that was looked at.

    Args:
        group: What it belongs to: versions, machine, extras or self-test.
        name: What it is.
        found: What was found, for people.
        ok: Whether it is as it must be; None: it may be as it likes.
    """

    group: str
    name: str
    found: str
    ok: bool | None = None


def look_at_everything() -> Iterator[Checkup]:
    """All findings, each as soon as it is there; nothing raises."""
    yield from _versions()
    yield from _machine()
    yield from _extras()
    for name, test in (
        ("find a symmetry", _find),
        ("merge a permuted copy", _merge),
        ("exchange over mutual TLS", _exchange),
    ):
        yield _tested("self-test", name, test)


def _versions() -> Iterator[Checkup]:
    yield Checkup("versions", "python", platform.python_version())
    yield Checkup("versions", "dimat", version("dimat"))
    for name, extra in _requirements():
        if extra is None:
            there = _version(name)
            yield Checkup("versions", name, there or "missing", there is not None)


def _machine() -> Iterator[Checkup]:
    def is_writable() -> str:
        with tempfile.NamedTemporaryFile(dir=Path.cwd(), prefix=".dimat-doctor-"):
            return f"writable, {human_bytes(shutil.disk_usage(Path.cwd()).free)} free"

    yield Checkup("machine", "system", f"{platform.system()} {platform.machine()}")
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = f"{allowed} of {os.cpu_count()}"
    yield Checkup("machine", "cores", f"{cores}, {torch.get_num_threads()} threads of PyTorch")
    slow = "not on this CPU, where it is ten times slower than float32"
    yield Checkup("machine", "bfloat16", slow if lacks_bfloat16() else "as PyTorch has it")
    yield Checkup("machine", "memory", human_bytes(memory_bytes()))
    yield _tested("machine", "devices", _devices)
    yield _tested("machine", "current folder", is_writable)


def _devices() -> str:
    """Names of the devices, on each of which a product was computed."""
    found = ["cpu"]
    found += [f"cuda:{k}" for k in range(torch.cuda.device_count())]
    for device in found:
        ones = torch.ones(8, 8, device=device)
        _require(bool((ones @ ones == 8).all()), f"{device} multiplies wrongly")
    return ", ".join(x if x == "cpu" else f"{x} ({torch.cuda.get_device_name(x)})" for x in found)


def _extras() -> Iterator[Checkup]:
    needed: dict[str, list[str]] = {}
    for name, extra in _requirements():
        if extra is not None and extra not in _OURS and name != "dimat":
            needed.setdefault(extra, []).append(name)
    for extra, names in sorted(needed.items()):
        missing = [name for name in names if _version(name) is None]
        here = ", ".join(f"{name} {_version(name)}" for name in names)
        way = f'without {", ".join(missing)}: pip install "dimat[{extra}]"'
        yield Checkup("extras", extra, way if missing else here)


def _requirements() -> Iterator[tuple[str, str | None]]:
    """Name and extra of each package that dimat asks for."""
    for line in requires("dimat") or ():
        name = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        if name is not None:
            yield name[0], extra[1] if extra else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _tested(group: str, name: str, test: Callable[[], str]) -> Checkup:
    """What a test returns, or why it failed."""
    start = time.perf_counter()
    try:
        found = test()
    except Exception as error:  # whatever is wrong with a machine, the rest is looked at
        return Checkup(group, name, f"{type(error).__name__}: {first_line(error)}", False)
    spent = f" ({time.perf_counter() - start:.1f} s)" if group == "self-test" else ""
    return Checkup(group, name, found + spent, True)


def _require(true: bool, otherwise: str) -> None:
    if not true:
        raise RuntimeError(otherwise)


# --- the self-test -------------------------------------------------------------------------------


def _network() -> tuple[nn.Module, Tensor]:
    """A network and inputs, the same each time, whose hidden units may be permuted."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Linear(_INPUTS, _UNITS), nn.ReLU(), nn.Linear(_UNITS, 3)
        return nn.Sequential(*layers), torch.randn(200, _INPUTS)


def _find() -> str:
    model, inputs = _network()
    sizes = [group.size for group in find_symmetry(model, (inputs,)).groups]
    _require(sizes == [_UNITS], f"groups of {sizes} units were found, expected [{_UNITS}]")
    return f"{_UNITS} hidden units may be permuted, proved by execution"


def _merge() -> str:
    model, inputs = _network()
    ours = {name: x.clone() for name, x in model.state_dict().items()}
    order = torch.arange(_UNITS).roll(5)
    theirs = {name: x[order] if x.shape[0] == _UNITS else x for name, x in ours.items()}
    theirs["2.weight"] = ours["2.weight"][:, order]
    merged = merge(model, [ours, theirs], [inputs]).state
    apart = max(float((merged[name] - x).abs().max()) for name, x in ours.items())
    _require(apart < 1e-6, f"the merge of two equal networks is {apart:.2g} from them")
    return "two copies in different unit orders merge to the same network"


def _exchange() -> str:
    """Two agents with certificates of a CA of their own tell each other who they are."""
    require_tls13()
    with tempfile.TemporaryDirectory() as folder:
        first, second = _identities(Path(folder))
        book = FixedAddresses()
        with closing(Neighborhood(0, book, "127.0.0.1:0", Security("doctor", first))) as one:
            book[0] = str(one.address)
            other = Neighborhood(1, book, None, Security("doctor", second))
            with closing(other), ThreadPoolExecutor(2) as threads:
                heard = list(threads.map(_say_own_number, (one, other)))
    _require(heard == [1.0, 0.0], f"agents 0 and 1 heard {heard} of each other")
    return "two agents heard each other on loopback"


def _identities(folder: Path) -> list[Identity]:
    authority = Authority.create(folder / "ca", "doctor", days=2)
    for agent in range(2):
        own = folder / str(agent)
        asked = request(own, "doctor", agent).public_bytes(Encoding.PEM)
        (own / "certificate.pem").write_bytes(authority.sign(asked, agent, days=1))
        shutil.copy(folder / "ca" / "ca.pem", own)
    return [Identity.load(folder / str(agent)) for agent in range(2)]


def _say_own_number(own: Neighborhood) -> float | None:
    """What the other of two agents says, who says its number."""
    [agent] = own.agents
    other = 1 - agent

    def talk() -> Talk[float | None]:
        message: Message = {"number": torch.tensor(float(agent))}
        inbox = yield Step({other: message}, [other])
        return float(inbox[other]["number"]) if other in inbox else None

    missing = own.await_neighbors([other], _WAIT_S)
    _require(not missing, f"agent {agent} found no agent {other} within {_WAIT_S:g} s")
    return own.run({agent: talk()}, {agent: Traffic()})[agent]
