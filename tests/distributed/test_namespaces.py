"""Three network namespaces as hosts, on one bridge or a slow and lossy switch: an agent each.

What a loopback cannot show: a cable that is pulled, packets that vanish without a word or arrive
late, and which addresses are listened on.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.distributed.cluster import Cluster, Launch, Process, forked

TRIANGLE = ((0, 1), (1, 2), (2, 0))
BRIDGE = f"dimat{os.getpid() % 100000}"
TUN = Path("/dev/net/tun")
DELAY_S, LOSS = 0.05, 0.01  # of every packet, in each direction
LISTENS = "0A"  # the state of a socket in /proc/net/tcp


def do(*words: str) -> None:
    """Run a command."""
    subprocess.run(words, check=True, capture_output=True, text=True)


def address(host: int) -> str:
    """Of a host on the bridge."""
    return f"10.213.77.{host + 1}"


@contextmanager
def host(number: int) -> Iterator[str]:
    """A namespace with a cable to the bridge; the name of the cable's near end."""
    near = f"{BRIDGE[:12]}p{number}"
    with namespace(number) as name:
        do("ip", "link", "add", near, "type", "veth", "peer", "name", "eth0", "netns", name)
        try:
            do("ip", "link", "set", near, "master", BRIDGE, "up")
            set_up(name, number)
            yield near
        finally:
            do("ip", "link", "del", near)


@contextmanager
def namespace(number: int) -> Iterator[str]:
    """A namespace without a cable; its name."""
    name = f"{BRIDGE}h{number}"
    do("ip", "netns", "add", name)
    try:
        do("ip", "-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        do("ip", "netns", "del", name)


def set_up(name: str, number: int) -> None:
    """Give a host its address, on the cable that it has."""
    do("ip", "-n", name, "addr", "add", f"{address(number)}/24", "dev", "eth0")
    do("ip", "-n", name, "link", "set", "eth0", "up")


class Switch:
    """A switch between hosts where every packet is late, and some are lost.

    Args:
        hosts: Names of the namespaces; each gets a cable to it.
        first: The number of the first of them.
    """

    def __init__(self, hosts: Sequence[str], first: int) -> None:
        self._random, self._ended = random.Random(0), threading.Event()
        self._files = []
        self.carried = self.lost = 0
        for k, name in enumerate(hosts):
            file = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
            self._files.append(file)
            near = f"{BRIDGE[:12]}t{k}"
            whole_frames = 0x0002 | 0x1000  # IFF_TAP, IFF_NO_PI
            fcntl.ioctl(file, 0x400454CA, struct.pack("16sH22x", near.encode(), whole_frames))
            do("ip", "link", "set", near, "netns", name, "name", "eth0")
            set_up(name, first + k)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        late: list[tuple[float, int, int, bytes]] = []  # when it is due, number, whose, what
        while not self._ended.is_set():
            wait = min(max(late[0][0] - time.monotonic(), 0), 0.1) if late else 0.1
            for file in select.select(self._files, [], [], wait)[0]:
                frame, now = os.read(file, 1 << 16), time.monotonic()
                for other in self._files:
                    if other != file and self._random.random() < LOSS:
                        self.lost += 1
                    elif other != file:
                        self.carried += 1
                        heapq.heappush(late, (now + DELAY_S, self.carried, other, frame))
            while late and late[0][0] <= time.monotonic():
                _, _, file, frame = heapq.heappop(late)
                os.write(file, frame)

    def close(self) -> None:
        """Pull all cables."""
        self._ended.set()
        self._thread.join()
        for file in self._files:
            os.close(file)


def require_namespaces() -> None:
    """Skip where there can be none."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need the command 'ip' (iproute2)")


@pytest.fixture(scope="module")
def cables() -> Iterator[list[str]]:
    """Three hosts; the near ends of their cables."""
    require_namespaces()
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


@pytest.fixture
def switch() -> Iterator[Switch]:
    """Three more hosts, on a slow and lossy switch."""
    require_namespaces()
    if not TUN.exists():
        pytest.skip(f"a switch of one's own needs {TUN}")
    with (
        namespace(3) as first,
        namespace(4) as second,
        namespace(5) as third,
        closing(Switch([first, second, third], 3)) as made,
    ):
        yield made


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


def all_exchange(cluster: Cluster, times: int) -> None:
    """Wait until every edge was used so often again."""
    for _ in range(times):
        for i, j in TRIANGLE:
            cluster.exchange_again(i, j)


def test_hosts_far_apart_exchange_though_packets_are_late_and_lost(
    tmp_path: Path, switch: Switch
) -> None:
    settings = {"rounds": 6, "method": "wa"}
    with closing(Cluster(tmp_path, TRIANGLE, hosts=lambda i: address(3 + i), **settings)) as own:
        for i in range(3):
            own.start(i, on(3 + i))
        assert set(own.finish().values()) == {0}
        for i, j in own.ends():
            assert (own.exchanged(i, j), own.incidents(i, j)) == (6, []), (i, j)
    assert switch.carried
    assert switch.lost


def test_hosts_exchange_through_the_kernel_s_own_delay_and_loss(cluster: Cluster) -> None:
    if shutil.which("tc") is None:
        pytest.skip("delay and loss by the kernel need the command 'tc' (iproute2)")
    late = ["root", "netem", "delay", f"{DELAY_S * 1000:g}ms", "loss", f"{LOSS:%}"]
    hosts = [f"{BRIDGE}h{number}" for number in range(3)]
    add = ["tc", "-n", hosts[0], "qdisc", "add", "dev", "eth0", *late]
    made = subprocess.run(add, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"this kernel has no netem: {made.stderr.strip()}")
    try:
        for name in hosts[1:]:
            do("tc", "-n", name, "qdisc", "add", "dev", "eth0", *late)
        all_exchange(cluster, 3)
    finally:
        for name in hosts:
            subprocess.run(["tc", "-n", name, "qdisc", "del", "dev", "eth0", "root"], check=False)
    all_exchange(cluster, 1)
