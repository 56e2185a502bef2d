"""Three network namespaces as hosts, on one bridge: an agent each.

What a loopback cannot show: a cable that is pulled, packets that vanish without a word, and which
addresses are listened on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.distributed.cluster import Cluster, Launch, Process, forked

TRIANGLE = ((0, 1), (1, 2), (2, 0))
BRIDGE = f"dimat{os.getpid() % 100000}"
LISTENS = "0A"  # the state of a socket in /proc/net/tcp


def do(*words: str) -> None:
    """Run a command."""
    subprocess.run(words, check=True, capture_output=True, text=True)


def address(host: int) -> str:
    """Of a host on the bridge."""
    return f"10.213.77.{host + 1}"


@contextmanager
def host(number: int) -> Iterator[str]:
    """A namespace with a cable to the bridge; its name, and that of the cable's near end."""
    name, near = f"{BRIDGE}h{number}", f"{BRIDGE[:12]}p{number}"
    do("ip", "netns", "add", name)
    try:
        do("ip", "link", "add", near, "type", "veth", "peer", "name", "eth0", "netns", name)
        do("ip", "link", "set", near, "master", BRIDGE, "up")
        do("ip", "-n", name, "addr", "add", f"{address(number)}/24", "dev", "eth0")
        do("ip", "-n", name, "link", "set", "eth0", "up")
        do("ip", "-n", name, "link", "set", "lo", "up")
        yield near
    finally:
        subprocess.run(["ip", "link", "del", near], check=False)
        do("ip", "netns", "del", name)


@pytest.fixture(scope="module")
def cables() -> Iterator[list[str]]:
    """Three hosts; the near ends of their cables."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need the command 'ip' (iproute2)")
    made = subprocess.run(
        ["ip", "link", "add", BRIDGE, "type", "bridge"], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"this kernel makes no bridge: {made.stderr.strip()}")
    try:
        do("ip", "link", "set", BRIDGE, "up")
        with host(0) as first, host(1) as second, host(2) as third:
            yield [first, second, third]
    finally:
        do("ip", "link", "del", BRIDGE)


def on(number: int) -> Launch:
    """``dimat WORDS`` on a host."""

    def launch(words: Sequence[str], log: Path) -> Process:
        return forked(words, log, f"{BRIDGE}h{number}")

    return launch


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, cables: list[str]) -> Iterator[Cluster]:
    """A triangle of agents that exchange, an agent a host; every test leaves it whole."""
    settings = {"rounds": 10**6, "method": "wa", "exchange__timeout_s": 4}
    folder = tmp_path_factory.mktemp("hosts")
    with closing(Cluster(folder, TRIANGLE, hosts=address, **settings)) as own:
        own.delay(0.2)
        for i in range(3):
            own.start(i, on(i))
        for i, j in TRIANGLE:
            own.exchange_again(i, j)
        yield own
        own.are_stopped()


def listening(number: int) -> set[str]:
    """The addresses that are listened on in a host, of both families, as the kernel says."""
    command = [
        "ip",
        "netns",
        "exec",
        f"{BRIDGE}h{number}",
        "cat",
        "/proc/net/tcp",
        "/proc/net/tcp6",
    ]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    sockets = [line.split() for line in text.splitlines()]
    return {x[1].partition(":")[0] for x in sockets if len(x) > 3 and x[3] == LISTENS}


def test_what_listens_does_so_on_the_given_address_only(cluster: Cluster) -> None:
    for number in range(3):
        packed = "".join(f"{int(x):02X}" for x in reversed(address(number).split(".")))
        mapped = f"0000000000000000FFFF0000{packed}"  # the same address, to a socket of both kinds
        assert listening(number) == {mapped}


def cut(kind: str, cable: str, *, mended: bool = False) -> None:
    """Pull a cable, or let all that should arrive through it vanish without a word."""
    if kind == "pulled":
        do("ip", "link", "set", cable, "up" if mended else "down")
    else:
        do("bridge", "link", "set", "dev", cable, "state", "3" if mended else "0")


@pytest.mark.parametrize("kind", ["pulled", "silent"])
def test_a_host_cut_off_is_missed_and_is_back_once_the_cable_is(
    cluster: Cluster, cables: list[str], kind: str
) -> None:
    before = {edge: losses(cluster, *edge) for edge in ((0, 1), (1, 0), (2, 1), (1, 2))}
    healthy = cluster.incidents(0, 2), cluster.incidents(2, 0)
    cut(kind, cables[1])
    cluster.exchange_again(2, 0)  # they do not wait for ever for what does not come
    counted = cluster.exchanged(0, 1)
    cluster.until(
        lambda: all(losses(cluster, *edge) > number for edge, number in before.items()),
        "both sides miss each other",
    )
    cluster.exchange_again(2, 0)
    cluster.goes_on(1)
    assert cluster.exchanged(0, 1) == counted
    cut(kind, cables[1], mended=True)
    cluster.exchange_again(0, 1)
    cluster.exchange_again(1, 2)
    assert (cluster.incidents(0, 2), cluster.incidents(2, 0)) == healthy


def losses(cluster: Cluster, i: int, j: int) -> int:
    """How often an agent has missed another so far."""
    return [what for _, what, _ in cluster.incidents(i, j)].count("lost")
