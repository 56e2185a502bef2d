"""The status of an agent: what it tells those who may ask, and the questions to others.

An answer is JSON of bounded size; what peers have said is cut, and fit to be shown.
"""

from __future__ import annotations

import importlib.metadata
import json
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dimat.errors import DimatError, ExchangeError, shown
from dimat.exchange.incidents import Incident
from dimat.exchange.network.rpc import grpc, in_short
from dimat.exchange.network.security import Security

if TYPE_CHECKING:
    from dimat.exchange.network.endpoint import Endpoint

CALL = "/dimat.Agent/Status"
_MOST_WHY = 200  # characters
_ONLY_DIALS = "it has no address: it only dials"


class StatusReport:
    """What an agent tells those who may ask: its work, its neighbors, and what it refused.

    Attributes:
        work: What its owner says of its work, JSON by name; replaced as a whole.
        exchanged: Number of exchanges that counted since the process began, by neighbor.
        incidents: Number of incidents of each kind since then, by neighbor.
    """

    def __init__(self) -> None:
        self.work: Mapping[str, Any] = {}
        self.exchanged: Counter[int] = Counter()
        self.incidents: Counter[tuple[int, str]] = Counter()
        self._since = time.time()

    def tell(self, **more: Any) -> None:
        """Add to what is said of the work, or replace some of it."""
        self.work = {**self.work, **more}

    def note(self, number: int, neighbors: Collection[int], incidents: Sequence[Incident]) -> None:
        """Count what came of the exchanges of a round.

        Args:
            number: The round.
            neighbors: All that the agent exchanges with in it.
            incidents: The exchanges that did not count.
        """
        missed = {own.agent for own in incidents if own.uncounted}
        heard = sorted({*neighbors} - missed)
        self.exchanged.update(heard)
        self.incidents.update((own.agent, own.what) for own in incidents)
        if incidents:
            last = asdict(incidents[-1]) | {"why": shown(incidents[-1].why, _MOST_WHY)}
            self.tell(incident={"round": number, **last})
        self.tell(heard=heard)

    def of(self, endpoint: Endpoint) -> dict[str, Any]:
        """The status of the agent of an endpoint, now."""
        security = endpoint.security
        incidents: dict[str, dict[str, int]] = {}
        for (j, what), times in dict(self.incidents).items():
            incidents.setdefault(str(j), {})[what] = times
        with endpoint.changed:
            neighbors = {
                str(j): {"link": link.status.value, "why": shown(link.why, _MOST_WHY)}
                for j, link in sorted(endpoint.all().items())
            }
            refused = dict(endpoint.refused)
        until = None if security.identity is None else security.identity.valid_until.timestamp()
        return {
            "agent": endpoint.agent,
            "run": security.run,
            "version": importlib.metadata.version("dimat"),
            "time": time.time(),
            "since": self._since,
            "connections": security.kind,
            "certificate_until": until,
            "peers": endpoint.peers_digest,
            **self.work,
            "neighbors": neighbors,
            "exchanged": {str(j): n for j, n in sorted(dict(self.exchanged).items())},
            "incidents": incidents,
            "refused": refused,
        }

    def encoded(self, endpoint: Endpoint) -> bytes:
        """The same as it travels."""
        return json.dumps(self.of(endpoint)).encode()


@dataclass(frozen=True)
class Answer:
    """The answer of an agent that was asked how it is.

    Args:
        agent: The agent's number.
        address: Where it was asked; None: it has no address, and nobody can ask it.
        status: What it says, printable; None if it does not answer.
        why: Why it does not.
    """

    agent: int
    address: str | None
    status: Mapping[str, Any] | None = None
    why: str = ""


def ask(
    security: Security, addresses: Mapping[int, str | None], timeout_s: float = 5.0
) -> list[Answer]:
    """Ask agents how they are, all at once.

    Args:
        security: Who asks, and how others are known.
        addresses: HOST:PORT of each agent; None: it has none.
        timeout_s: Seconds that each has to answer.

    Returns:
        An answer of each, in the order of their numbers.
    """
    us = None if security.identity is None else security.identity.agent
    channels = {j: security.channel(j, own) for j, own in addresses.items() if own}
    asked = {
        j: _Question(security, us, j, str(addresses[j]), timeout_s, channel)
        for j, channel in channels.items()
    }
    try:
        return [
            asked[j].answer() if j in asked else Answer(j, None, why=_ONLY_DIALS)
            for j in sorted(addresses)
        ]
    finally:
        for channel in channels.values():
            channel.close()


def measure(
    security: Security, us: int, agent: int, address: str, size: int, times: int, timeout_s: float
) -> float:
    """Seconds in which a neighbor takes some bytes, at best of several times.

    Args:
        security: Who asks, and how others are known.
        us: Number of the agent that asks.
        agent: The neighbor's number.
        address: HOST:PORT where it is reached.
        size: Number of the bytes, >= 1.
        times: How often they are sent; once more it is told that we are done.
        timeout_s: Seconds that each has.

    Raises:
        ExchangeError: If it does not answer.
    """
    took = []
    channel = security.channel(agent, address)
    try:
        for k in range(times + 1):
            began = time.perf_counter()
            body = bytes(size) if k else b""  # the first connects
            answer = _Question(security, us, agent, address, timeout_s, channel, body).answer()
            if answer.status is None:
                raise ExchangeError(answer.why)
            took.append(time.perf_counter() - began)
        # It may end as soon as it has heard this: whether it answers is of no interest.
        _Question(security, us, agent, address, timeout_s, channel, b"\0").answer()
    finally:
        channel.close()
    return min(took[1:])


class _Question:
    """A question that is on its way."""

    def __init__(
        self,
        security: Security,
        us: int | None,
        agent: int,
        address: str,
        timeout_s: float,
        channel: grpc.Channel,
        body: bytes = b"",
    ) -> None:
        self._us, self._agent, self._address = us, agent, address
        self._security, self._timeout_s = security, timeout_s
        self._nonce, claim = security.claim(self._us, agent, "asks")
        asks: Any = channel.unary_unary(CALL)
        self._call = asks.future(body, timeout=timeout_s, metadata=claim)

    def answer(self) -> Answer:
        """The answer, once it has come or its time is over."""
        agent, address = self._agent, self._address
        try:
            answer = self._call.result()
            said = dict(self._call.initial_metadata() or ())
            self._security.check_answer(said, self._nonce, self._us, agent)
            return Answer(agent, address, read_status(answer))
        except DimatError as error:
            return Answer(agent, address, why=shown(str(error)))
        except grpc.RpcError as error:
            return Answer(agent, address, why=_reason(error, self._timeout_s))


def read_status(answer: bytes) -> Mapping[str, Any]:
    """What an agent says of itself; whatever text is in it is printable.

    Raises:
        DimatError: If it is no JSON object.
    """
    try:
        found = json.loads(answer, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DimatError("what it answers is no status")
    printable: dict[str, Any] = _printable(found, 4)
    return printable


def _printable(value: Any, depth: int) -> Any:
    """JSON with every text cut and made printable, and nothing nested deeper than that."""
    if isinstance(value, dict) and depth:
        return {shown(name, 80): _printable(own, depth - 1) for name, own in value.items()}
    if isinstance(value, list) and depth:
        return [_printable(own, depth - 1) for own in value]
    return value if value is None or isinstance(value, (bool, int, float)) else shown(value)


def _reason(error: grpc.RpcError, timeout_s: float) -> str:
    """Why an agent does not answer, in words."""
    call: Any = error
    said = call.details() or ""
    if call.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {timeout_s:g} s"
    if call.code() is grpc.StatusCode.PERMISSION_DENIED:
        return f"it refuses us: {shown(said)}"
    return in_short(said) or "no answer"
