"""How fast a state goes to one neighbor, as a ratio to bare gRPC and to bare Gloo in the same run.

.venv/bin/python -m benchmarks.neighbors            # 102 MB, the shapes of ResNet-50; 2 processes
.venv/bin/python -m benchmarks.neighbors --small    # a tenth of the channels, a few seconds

Two agents, a process each with one torch thread, neighbors over loopback: agent 1 tells its state,
and agent 0 answers with a few bytes. "bare gRPC" is one stream with the same certificates, on which
one flat tensor of the same bytes goes in pieces of the same size into memory that is there, and a
byte comes back. "agent" is a round over ``Neighborhood``: packed, numbered, checksummed at both
ends, accepted, answered. "admitted" takes its norm too, as methods do: no NaN, nothing far off.
"bare Gloo" is ``torch.distributed``'s send and receive of the flat tensor, unencrypted. All
alternate, as the machine's speed drifts; times are of agent 1, medians with quartiles.

Then what the norm takes by itself, against a sum of squares of copies in float64, in turns.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import queue
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist  # noqa: TID251
from benchmarks.ranks import state_of_shapes
from cryptography.hazmat.primitives.serialization import Encoding
from torch import Tensor

from dimat.errors import StructureError
from dimat.exchange import Message, Step, Talk, Traffic
from dimat.exchange.network.link import Rules
from dimat.exchange.network.neighborhood import Neighborhood
from dimat.exchange.network.peers import FixedAddresses
from dimat.exchange.network.rpc import grpc
from dimat.exchange.network.security import SERVER_OPTIONS, security_of
from dimat.exchange.wire import PIECE
from dimat.experiment.running.allocator import keep_freed_memory
from dimat.identity import Authority, Identity, request, server_name
from dimat.methods.admit import norm
from dimat.state import State, num_bytes

RUN, HOST = "benchmark", "127.0.0.1"
RUNS, SMALL_RUNS = 21, 9
WAYS = ("bare gRPC", "agent", "admitted", "bare Gloo")


def certificates(folder: Path) -> None:
    """A CA, and a certificate for each of the two."""
    authority = Authority.create(folder / "ca", RUN)
    for i in range(2):
        asked = request(folder / f"{i}", RUN, i).public_bytes(Encoding.PEM)
        (folder / f"{i}" / "certificate.pem").write_bytes(authority.sign(asked, i))
        (folder / f"{i}" / "ca.pem").write_bytes((folder / "ca" / "ca.pem").read_bytes())


def bare_server(identity: Identity, size: int) -> tuple[grpc.Server, int]:
    """Receives so many bytes again and again into the same memory, and answers with one."""
    flat = memoryview(torch.empty(size, dtype=torch.uint8).numpy().data)

    def receive(pieces: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        at = 0
        for piece in pieces:
            flat[at : at + len(piece)] = piece
            at += len(piece)
            if at == size:
                at = 0
                yield b"."

    server = grpc.server(futures.ThreadPoolExecutor(2), options=list(SERVER_OPTIONS))
    method: Any = grpc.stream_stream_rpc_method_handler(receive)
    handler = grpc.method_handlers_generic_handler("bare", {"Send": method})
    server.add_generic_rpc_handlers((handler,))
    pair = (identity.key, identity.chain)
    credentials = grpc.ssl_server_credentials([pair], identity.roots, True)
    port = server.add_secure_port(f"{HOST}:0", credentials)
    server.start()
    return server, port


def bare_client(identity: Identity, port: int, flat: Tensor) -> Callable[[], None]:
    """Sends a flat tensor, and waits for the answer."""
    wanted: queue.SimpleQueue[None] = queue.SimpleQueue()

    def pieces() -> Iterator[bytes]:
        while True:
            wanted.get()
            array = flat.numpy()
            for at in range(0, len(array), PIECE):
                yield array[at : at + PIECE].tobytes()

    credentials = grpc.ssl_channel_credentials(identity.roots, identity.key, identity.chain)
    named = ("grpc.ssl_target_name_override", server_name(RUN, 0))
    channel = grpc.secure_channel(f"{HOST}:{port}", credentials, [named])
    call: Any = channel.stream_stream("/bare/Send")
    answers = iter(call(pieces()))

    def send() -> None:
        wanted.put(None)
        next(answers)

    send.channel = channel  # type: ignore[attr-defined]  # it lives as long
    return send


def told(own: int, state: State, scan: bool) -> Talk[int]:
    """A round: the state of agent 1, and a few bytes of agent 0."""

    def admit(j: int, message: Message) -> None:
        if not math.isfinite(norm(message, list(message))):
            raise StructureError(f"state from agent {j} has no norm")

    message = state if own else {"answer": torch.zeros(1)}
    inbox = yield Step({1 - own: message}, [1 - own], admit if scan else None)
    return len(inbox)


def agent(own: int, folder: Path, part: int, runs: int, barrier: Barrier, results: Any) -> None:
    """One process: seconds of each way, again and again."""
    keep_freed_memory()  # as the command line does
    torch.set_num_threads(1)
    state = state_of_shapes(part, own)
    flat = torch.zeros(num_bytes(state), dtype=torch.uint8)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=own, world_size=2)
    security = security_of(folder / f"{own}", RUN, own)
    assert security.identity is not None
    book = FixedAddresses()
    hood = Neighborhood(own, book, f"{HOST}:0", security, Rules(timeout_s=60))
    server, port = bare_server(security.identity, len(flat)) if own == 0 else (None, 0)
    told_ports: list[Any] = [None, None]
    dist.all_gather_object(told_ports, (hood.address, port))
    book.update({i: address for i, (address, _) in enumerate(told_ports)})
    assert not hood.await_neighbors([1 - own], 60)
    send = bare_client(security.identity, told_ports[0][1], flat) if own else lambda: None

    def round_(scan: bool) -> None:
        heard = hood.run({own: told(own, state, scan)}, {own: Traffic()})[own]
        assert heard == 1, hood.incidents

    def gloo() -> None:
        (dist.send if own else dist.recv)(flat, 1 - own)
        (dist.recv if own else dist.send)(torch.zeros(1), 1 - own)

    ways = dict(zip(WAYS, (send, lambda: round_(False), lambda: round_(True), gloo), strict=True))
    for _ in range(runs + 2):
        for name, way in ways.items():
            barrier.wait()
            start = time.perf_counter()
            way()
            if own:
                results.put((name, time.perf_counter() - start))
    barrier.wait()
    hood.close()
    if server is not None:
        server.stop(None)


def norms(state: State) -> str:
    """A line: processor time of a state's norm, and by copies of its entries in float64."""
    keep_freed_memory()
    torch.set_num_threads(1)
    ways: dict[str, Callable[[], float]] = {
        "blocks": lambda: norm(state, list(state)),
        "copies": lambda: math.sqrt(sum(float(x.double().square().sum()) for x in state.values())),
    }
    assert math.isclose(ways["blocks"](), ways["copies"](), rel_tol=1e-5)
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(SMALL_RUNS):
        for name, way in ways.items():
            start = time.process_time()
            way()
            spent[name].append(1e3 * (time.process_time() - start))
    blocks, copies = (statistics.median(own) for own in spent.values())
    ratio = statistics.median(b / a for a, b in zip(*spent.values(), strict=True))
    return f"its norm: {blocks:.1f} ms; by copies in float64 {copies:.1f} ms, {ratio:.1f} times"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    small = parser.parse_args().small
    part, runs = (8, SMALL_RUNS) if small else (1, RUNS)
    spawned = multiprocessing.get_context("spawn")
    barrier, results = spawned.Barrier(2), spawned.Queue()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        certificates(folder)
        rest = (folder, part, runs, barrier, results)
        processes = [spawned.Process(target=agent, args=(i, *rest)) for i in range(2)]
        for process in processes:
            process.start()
        found = [results.get(timeout=600) for _ in range(len(WAYS) * (runs + 2))]
        for process in processes:
            process.join()
            assert process.exitcode == 0
    size = num_bytes(state_of_shapes(part, 0))
    print(
        f"2 agents, {size / 1e6:.1f} MB one way, mutual TLS 1.3; grpcio {grpc.__version__}, torch "
        f"{torch.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, n = {runs}"
    )
    times = {way: [s for name, s in found if name == way][-runs:] for way in WAYS}
    for way, each in times.items():
        low, middle, high = statistics.quantiles(each, n=4)
        ratios = [
            statistics.median(b / x for b, x in zip(times[bare], each, strict=True))
            for bare in ("bare gRPC", "bare Gloo")
        ]
        print(
            f"{way:9s} {1e3 * middle:7.1f} ms [{1e3 * low:.1f}, {1e3 * high:.1f}]  "
            f"{size / middle / 1e9:5.2f} GB/s  "
            f"{ratios[0]:.2f} of bare gRPC, {ratios[1]:.2f} of bare Gloo"
        )
    print(norms(state_of_shapes(part, 0)))


if __name__ == "__main__":
    main()
