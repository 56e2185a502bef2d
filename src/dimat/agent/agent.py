"""``dimat.Agent``: an agent in your own training loop, for any model and data, in three lines."""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dimat.agent.membership import Membership, check_lasting, most_bytes
from dimat.checkpoints import unwrapped
from dimat.checkpoints.batches import Calls
from dimat.checkpoints.reading import read_calls
from dimat.errors import (
    ConfigError,
    ExchangeError,
    ModelError,
    check_kind,
    check_known,
    check_whole,
    in_words,
    look_up,
    quoted,
)
from dimat.exchange import Talk, Traffic
from dimat.exchange.incidents import Incident, Rows
from dimat.exchange.network.hosts import join_address
from dimat.exchange.network.link import Rules
from dimat.exchange.network.neighborhood import Neighborhood
from dimat.exchange.network.peers import FixedAddresses
from dimat.exchange.network.security import require_protection, security_of
from dimat.exchange.network.site import AgentSite
from dimat.exchange.protocol import Result
from dimat.exchange.torchrun import Place, exchange_addresses, launched, own_host, place
from dimat.methods import (
    MAX_NORM_RATIO,
    METHODS,
    Method,
    RoundContext,
    RoundResult,
    check_combiner,
    check_needs,
)
from dimat.methods.gauge import GaugeId
from dimat.state import State, check_finite, num_bytes, state_of, tensors_of
from dimat.symmetry import Analysis, Permutation, Symmetry
from dimat.text import brief
from dimat.topology import Network, build_topology, near
from dimat.training.exchanged import check_moves, frozen_digest, frozen_entries, trained_keys
from dimat.training.following import Followers
from dimat.training.round import merge_round

_LOG = logging.getLogger("dimat")


@dataclass(frozen=True)
class Exchanged:
    """The outcome of one exchange of an agent.

    Args:
        round: Number of the round, from 1; rounds that the agent missed are counted.
        heard: The neighbors whose exchange counted; while a unit order spreads, some of them are
            in another one and are not mixed yet.
        incidents: The exchanges with neighbors that did not count.
        disagreement: Distance from the aligned neighbors before the merge, in parameter units;
            None if no neighbor was heard.
        match_s: Seconds spent matching.
        merge_s: Seconds spent combining, taking the result over and recalibrating.
        permutation: The permutation of this agent's units; None if they did not move.
        symmetry: The symmetry of the model: ``symmetry.apply(permutation, entries)`` moves entries
            by parameter name; None where no units moved. See :meth:`Agent.register`.
    """

    round: int
    heard: Sequence[int]
    incidents: Sequence[Incident]
    disagreement: float | None
    match_s: float
    merge_s: float
    permutation: Permutation | None = None
    symmetry: Symmetry | None = None

    __repr__ = brief


class Agent:
    """An agent around your own training loop, which merges with its neighbors every few steps.

    Every agent is a process with an ``Agent`` of the same arguments but ``id``. Under ``torchrun``
    on one machine nothing else is needed; otherwise give ``id``, ``agents`` and ``peers``, the file
    of their addresses, and ``certificates``.
    Use the agent in a ``with`` block, which says goodbye, so that no neighbor waits for it.

    An agent that joins when others have gone on takes over the state of a neighbor; an agent that
    loads :meth:`state_dict` beside its model goes on as itself.

    An exchange that fails changes nothing here: the model, the optimizer, registered entries and
    the agent are as before, and neighbors go on. Neighbors that had received all of this agent's
    messages have merged its state; the others are not kept waiting.

    Args:
        model: Any exportable module; the same architecture at all agents. One in
            ``DistributedDataParallel``, ``DataParallel`` or ``torch.compile`` is taken out of it.
        optimizer: The optimizer of the model's parameters, and maybe of others; its moments move
            with the units, and memory that cannot be moved is dropped, with a warning. None if
            there is no optimizer.
        topology: Name of a graph, or a network of :func:`dimat.build_topology`.
        calibration: Batches of the agent's own data, as for :func:`dimat.merge`: units are matched
            and BatchNorm statistics recomputed on them. Read once, at most ``images`` samples.
        every: Calls of :meth:`step` between exchanges, >= 1.
        hook: Whether the optimizer calls :meth:`step` itself, at the end of its own: then the
            training loop needs no line of it, and an exchange that fails is raised by
            ``optimizer.step()``.
        method: dimat, wa or wm; or a method of your own that tolerates lost messages.
        id: Number of this agent, from 0; the rank under torchrun.
        agents: Number of all agents; the world size under torchrun.
        peers: File of the agents' addresses, a line ``3: {address: HOST:PORT}`` for each; not
            needed under torchrun.
        certificates: Folder of this agent's certificate and key, which ``dimat certificates``
            made: what agents say is then encrypted, and each proves who it is.
        listen: HOST:PORT where this agent listens, if others reach it at another address than that.
        insecure: Whether to talk in plaintext, to agents on this machine alone.
        trusted_network: Whether to talk in plaintext on a network whose users may all read and
            change what agents say; under torchrun on several machines, which trusts them too.
        name: Name of the run, alike at all agents; with certificates, they name it.
        images: Calibration samples, at most.
        recalibration: batchnorm: recompute running statistics on the batches after each merge;
            none: leave them as averaged; auto: batchnorm, unless the method fits statistics itself.
            BatchNorm that stays in eval mode when the model is in training mode is frozen, and is
            left alone.
        symmetry: The model's symmetry, given by hand (``Symmetry.from_axes``) for a model that
            cannot be exported; it is proved on the batches. The method must then not need the
            model's graph: wm, wa.
        exchange: all entries of the model, or trainable: parameters that require a gradient when
            the agent is made, and buffers that a training pass writes. The rest is never sent, and
            must be alike at all agents, which the handshake checks by digest.
        precision: Floating point format of the messages: float32 or bfloat16.
        max_norm_ratio: Largest factor, >= 1, between the norm of a neighbor's parameters and that
            of the agent's own, either way; beyond it the neighbor's state is refused. None: any. A
            ``method`` given as an object has its own limit.
        timeout_s: Seconds of silence after which a neighbor is lost, > 0.
        patience_s: Seconds to wait, at most, for a neighbor that lives and says nothing, > 0.

    Raises:
        ConfigError: If a setting is unknown or out of its range.
        DataError, ModelError: If the batches or the model cannot be used.
        TopologyError: If the graph cannot be built, or the method cannot use it.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        *,
        topology: str | Network = "ring",
        calibration: Iterable[Any],
        every: int = 200,
        hook: bool = False,
        method: str | Method = "dimat",
        id: int | None = None,
        agents: int | None = None,
        peers: str | Path | None = None,
        certificates: str | Path | None = None,
        listen: str | None = None,
        insecure: bool = False,
        trusted_network: bool = False,
        name: str | None = None,
        images: int = 1000,
        recalibration: Literal["auto", "batchnorm", "none"] = "auto",
        symmetry: Symmetry | None = None,
        exchange: Literal["all", "trainable"] = "all",
        precision: Literal["float32", "bfloat16"] = "float32",
        max_norm_ratio: float | None = MAX_NORM_RATIO,
        timeout_s: float = 30.0,
        patience_s: float = 600.0,
    ) -> None:
        model = unwrapped(model)
        _check(model, every, precision, timeout_s, patience_s)
        _check_kinds(optimizer, topology, symmetry)
        check_known("recalibration", recalibration, ("auto", "batchnorm", "none"))
        check_known("exchange", exchange, ("all", "trainable"))
        if max_norm_ratio is not None and not 1 <= max_norm_ratio < float("inf"):
            raise ConfigError(f"'max_norm_ratio' is {max_norm_ratio}: must be >= 1, or None")
        where = _place(id, agents, peers)
        self.id, self._size, self._every, self._precision = where.rank, where.size, every, precision
        self.model, self._by_hand = model, symmetry
        if isinstance(topology, str):
            topology = build_topology(topology, self._size)
        self.topology = topology
        given = {"matching.gauge": "spread", "exchange.max_norm_ratio": max_norm_ratio}
        self._method = _method(method, given, self.topology, self._size)
        if symmetry is not None and self._method.needs_graph:
            raise ConfigError(
                "'symmetry' is given by hand, which comes without the model's graph, and 'method' "
                "compares what units compute on that: use wm or wa"
            )
        with torch.random.fork_rng():  # a data loader draws a seed: restore the caller's generators
            self._calls = read_calls(calibration, images, _device(model))
        self._exchanged = _exchanged(model, self._calls) if exchange == "trainable" else None
        keys = tensors_of(model.state_dict()) if self._exchanged is None else self._exchanged
        called = method if isinstance(method, str) else type(method).__name__
        check_combiner(called, self._method, keys, part=self._exchanged is not None)
        self._followers = Followers(
            model, optimizer, self._calls, recalibration, lambda: self._analysis.symmetry
        )
        limit = most_bytes(num_bytes(state_of(model, self._exchanged)), self._method)
        rules = Rules(self._handshake(), timeout_s, limit)
        self.neighbors = near(self.topology, self.id)
        site = AgentSite(
            Path(peers or ""),
            None if certificates is None else Path(certificates),
            listen,
            insecure,
            trusted_network,
            name,
        )
        if peers is None:
            self._neighborhood = _under_torchrun(where, site, rules, patience_s, _device(model))
        else:
            self._neighborhood = site.neighborhood(
                self.id, self.neighbors, rules, patience_s=patience_s, device=_device(model)
            )
        self._membership, self._timeout_s = Membership(self._neighborhood), timeout_s
        self.traffic = Traffic()
        self.history: list[Exchanged] = []
        self.rounds, self._steps, self._life, self._closed = 0, 0, secrets.randbits(62), False
        self._rows = Rows()
        self._gauge: GaugeId | None = None
        self._kept: Mapping[str, State] = {}
        self._neighborhood.tell(_warn)
        self._membership.speak(0, None)
        self._tell()
        self._neighborhood.await_neighbors(self.neighbors, 0)  # start to connect to them
        self._unhook = _hook(optimizer, self._count) if hook else None

    def __enter__(self) -> Agent:
        """The agent itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Say goodbye to the neighbors: :meth:`close`."""
        self.close()

    def step(self) -> Exchanged | None:
        """Count one optimizer step, and exchange and merge after each ``every`` of them.

        Returns:
            The outcome of the exchange; None if this call made none.

        Raises:
            ConfigError: If the optimizer counts its own steps (``hook``).
        """
        if self._unhook is not None:
            raise ConfigError("'hook' is True, so the optimizer counts its steps: call no step()")
        return self._count()

    def _count(self) -> Exchanged | None:
        """Count one optimizer step; exchange if it is due."""
        self._steps += 1
        if self._steps % self._every:
            return None
        return self.exchange()

    def exchange(self) -> Exchanged:
        """Exchange states with the neighbors, match, merge and recalibrate, now.

        If the exchange fails, nothing here has changed and no round is counted.

        Returns:
            The outcome of the exchange.

        Raises:
            StructureError: If the model's own state is not finite, or the optimizer's memory can
                be neither moved nor dropped.
            DataError: If the calibration batches have no statistics.
            ModelError: If anything else fails; names the cause.
            ExchangeError: If the agent has said goodbye.
        """
        if self._closed:
            raise ExchangeError(f"agent {self.id} has said goodbye: make a new one")
        if not self.rounds and not self.history:
            missing = self._neighborhood.await_neighbors(self.neighbors, self._timeout_s)
            if missing:
                _LOG.warning("agents %s are not there yet, and are not waited for", missing)
        membership = replace(self._membership, pace=replace(self._membership.pace))
        try:
            with in_words(
                f"agent {self.id}, the exchange after round {self.rounds}",
                after="; model, optimizer and agent are as before it",
            ):
                result = self._exchange()
        except BaseException:
            self._membership = membership
            self._membership.noticed()
            self._neighborhood.take_back()
            self._membership.speak(self.rounds, self._gauge)
            raise
        self.history.append(result)
        self._neighborhood.report.note(
            result.round, [*result.heard, *(x.agent for x in result.incidents)], result.incidents
        )
        self._tell(disagreement=result.disagreement, match_s=result.match_s, merge_s=result.merge_s)
        return result

    def register(
        self,
        name: str,
        get: Callable[[], Mapping[str, Tensor]],
        set: Callable[[Mapping[str, Tensor]], object],
    ) -> None:
        """Register entries of your own that follow the units, such as an average of weights.

        At each exchange in which this agent's units move, ``set`` is called with the entries of
        ``get``, moved alike. They are not averaged with those of the neighbors.

        Args:
            name: Name of the entries, for messages.
            get: Returns entries by the names of the parameters (and buffers) of the model that
                they belong to, in the same shapes.
            set: Stores the moved entries.

        Raises:
            ConfigError: If the name is taken, or an entry is none of the model's.

        Example:
            ``agent.register("ema", ema.module.state_dict, ema.module.load_state_dict)``
        """
        self._followers.register(name, get, set)

    def close(self) -> None:
        """Say goodbye: the neighbors go on without this agent. May be called twice."""
        self._closed = True
        if self._unhook is not None:
            self._unhook.remove()
        self._neighborhood.close()

    def state_dict(self) -> dict[str, Any]:
        """The agent's own state: steps, rounds, unit order, membership, states of the method.

        Save it beside the ``state_dict`` of the model and of the optimizer.
        """
        gauge = self._gauge
        return {
            "steps": self._steps,
            "rounds": self.rounds,
            "gauge": None if gauge is None else gauge.parts,
            "kept": {name: dict(own) for name, own in self._kept.items()},
            "presence": self._membership.kept(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a :meth:`state_dict`; load the model and optimizer of that moment as well.

        Args:
            state: The value that :meth:`state_dict` returned.

        Raises:
            ConfigError: If ``state`` is not such a value.
        """
        check_kind("state", state, Mapping, "what state_dict() returned")
        missing = sorted(self.state_dict().keys() - state.keys())
        if missing:
            raise ConfigError(
                f"no state of an agent: it lacks '{missing[0]}'; give what state_dict() returned"
            )
        self._steps, self.rounds = int(state["steps"]), int(state["rounds"])
        self._gauge = GaugeId(*state["gauge"]) if state["gauge"] else None
        self._kept = dict(state["kept"])
        self._membership.restore(state["presence"])
        self._membership.speak(self.rounds, self._gauge)
        self._tell()

    # --- a round -----------------------------------------------------------------------------

    def _exchange(self) -> Exchanged:
        """Run one round; the agent changes only after every step that can fail."""
        empty = not self.history and not self._membership.joined
        done = self._membership.catch_up(self.rounds, self._gauge, empty_handed=empty)
        self._membership.speak(done, self._gauge)
        transport = _ClosingTransport(self._neighborhood, self.neighbors)
        (result,) = merge_round(
            [self], self._method, transport, done + 1, precision=self._precision, observe=self._note
        )
        self.rounds, self._gauge = done + 1, result.gauge or self._gauge
        self._kept = result.kept
        self._membership.speak(self.rounds, self._gauge)  # agents that join now see the new round
        incidents = tuple(self._neighborhood.incidents)
        lost = {own.agent for own in incidents if own.uncounted}
        heard = self._neighborhood.asked - lost
        return Exchanged(
            self.rounds,
            [j for j in self.topology.at(done).neighbors(self.id) if j in heard],
            incidents,
            result.disagreement,
            result.report.match_s,
            result.report.merge_s,
            result.permutation,
            None if result.permutation is None else self._analysis.symmetry,
        )

    def _note(self, contexts: Sequence[RoundContext], results: Sequence[RoundResult]) -> None:
        """Log the incidents of the exchange and update the membership, before taking over."""
        for row in self._rows.add(contexts[0].round, tuple(self._neighborhood.incidents)):
            _LOG.warning("round %d: %s", contexts[0].round, row)
        self._membership.after(results[0])

    def _tell(self, **more: float | None) -> None:
        """Keep up what those who ask how the agent is are told."""
        self._neighborhood.report.tell(
            round=self.rounds,
            standing=self._membership.status.value,
            sent_bytes=self.traffic.sent_bytes,
            received_bytes=self.traffic.received_bytes,
            **more,
        )

    # --- an agent in a round (training/round.py) ----------------------------------------------

    @property
    def index(self) -> int:
        """The agent's number, ``id``."""
        return self.id

    def context(self, number: int) -> RoundContext:
        """The agent's state, graph and calibration batches at the beginning of a merge.

        Args:
            number: The round, from 1.

        Raises:
            StructureError: If the state is not finite.
        """
        state = state_of(self.model, self._exchanged)
        check_finite(state, f"agent {self.id}, round {number}, before the merge")
        me = RoundContext(
            agent=self.id,
            round=number,
            state=state,
            topology=self.topology.at(number - 1),
            parameters=[name for name, _ in self.model.named_parameters() if name in state],
            analysis=lambda: self._analysis,
            batches=self._batches,
            gauge=self._gauge,
            rounds=0,
            kept=self._kept,
            life=self._life,
        )
        return self._membership.context(me)

    def take_over(self, me: RoundContext, result: RoundResult) -> float:
        """Load the merged state, recalibrate, move what follows the units; all or nothing.

        Args:
            me: The context that the agent brought to the merge.
            result: The result of the agent's merge.

        Returns:
            Seconds spent on taking over.
        """
        start = time.perf_counter()
        self._followers.take_over(result, me.state)
        spent = time.perf_counter() - start
        self.traffic.busy_s += spent
        return spent

    def _batches(self) -> Sequence[Any]:
        return self._calls.pieces(self._analysis.trace)

    @cached_property
    def _analysis(self) -> Analysis:
        frozen = frozen_entries(self.model, self._exchanged)
        with in_words("finding the model's symmetry"), self._calls.blamed(self.model):
            if self._by_hand is not None:
                check_moves(self._by_hand, frozen)
                return self._calls.by_hand(self._by_hand, self.model)
            return self._calls.analyze(self.model, frozen=frozen)

    def _handshake(self) -> dict[str, str]:
        """Settings, and digests of graph, model and symmetry, that all agents must have alike."""
        method = self._method
        own = {
            "agents": str(self._size),
            "every": str(self._every),
            "method": repr(method),
            "precision": self._precision,
            "graph": _graph(self.topology),
            "mixing matrix": _matrix(self.topology),
            "model": _shapes(self.model),
        }
        if self._exchanged is not None:
            own["exchange"] = "trainable"
            digest = frozen_digest(self.model, self._exchanged)
            own["frozen entries (the base)"] = f"of digest {digest[:16]}"
        if self._method.matches:
            own["symmetry"] = self._analysis.symmetry.digest[:16]
        return own


@dataclass(frozen=True)
class _ClosingTransport:
    """The agent's transport, which cuts its edges when a talk fails, so that no neighbor waits."""

    neighborhood: Neighborhood
    neighbors: Sequence[int]

    @property
    def agents(self) -> Sequence[int]:
        """The number of the one agent of this process, in a sequence."""
        return self.neighborhood.agents

    def run(
        self, talks: Mapping[int, Talk[Result]], traffic: Mapping[int, Traffic]
    ) -> dict[int, Result]:
        """The result of the agent's talk; cuts the edges to all neighbors if the talk fails."""
        try:
            return self.neighborhood.run(talks, traffic)
        except BaseException:
            self.neighborhood.take_back()
            for j in self.neighbors:
                self.neighborhood.cut(j)
            raise


def _warn(kind: str, **facts: object) -> None:
    """Log what keeps the agent from its neighbors until somebody mends it."""
    if kind == "alarm":
        _LOG.warning("%s", facts["why"])


def _place(id: int | None, agents: int | None, peers: str | Path | None) -> Place:
    """The place of this agent: its number, and the number of all."""
    if peers is not None:
        check_kind("peers", peers, (str, Path), "the path of peers.yaml")
        if id is None or agents is None:
            raise ConfigError("with 'peers' give 'id' and 'agents': who this is, and of how many")
        check_whole("agents", agents)
        check_kind("id", id, Integral, f"a whole number in 0 … {agents - 1}")
        if not 0 <= id < agents:
            raise ConfigError(f"'id' is {id}: must be in 0 … {agents - 1}")
        return Place(id, agents)
    if not launched():
        raise ConfigError(
            "nothing says where the other agents are: start with torchrun, or give 'id', 'agents' "
            "and 'peers', the file of their addresses"
        )
    own = place()
    for setting, given, found in (("id", id, own.rank), ("agents", agents, own.size)):
        if given not in (None, found):
            raise ConfigError(
                f"'{setting}' is {given}, and torchrun says {found}: leave it away, or give 'peers'"
            )
    return own


def _under_torchrun(
    where: Place, site: AgentSite, rules: Rules, patience_s: float, device: torch.device
) -> Neighborhood:
    """The agent among its neighbors, whose addresses torchrun's store passes on."""
    security = security_of(
        site.certificates, site.run, where.rank, trusted_network=site.trusted_network
    )
    listen = site.listen or join_address(own_host(where), 0)
    insecure = site.insecure or (where.local and not site.trusted_network)
    require_protection(
        security.identity,
        [listen],
        insecure=insecure and security.identity is None,
        trusted_network=site.trusted_network,
    )
    book = FixedAddresses()
    own = Neighborhood(
        where.rank, book, listen, security, rules, patience_s=patience_s, device=device
    )
    try:
        book.update(exchange_addresses(where, str(own.address), security.run, patience_s))
    except BaseException:
        own.close()
        raise
    return own


def _method(
    method: str | Method, given: Mapping[str, object], topology: Network, agents: int
) -> Method:
    """The method, checked to tolerate lost messages and to suit the graph."""
    if topology.num_agents != agents:
        raise ConfigError(f"'topology' is of {topology.num_agents} agents, and there are {agents}")
    if isinstance(method, str):
        kind = look_up("method", method, METHODS)
        own = {f.name: f.metadata["setting"] for f in fields(kind) if "setting" in f.metadata}
        method = kind(**{name: given[s] for name, s in own.items() if s in given})
    check_kind("method", method, Method, "a name, such as 'dimat', or a dimat.methods.Method")
    if not method.tolerant or method.exchanges == "steps":
        raise ConfigError(
            "'method' needs every message of every agent, and agents may miss each other here: use "
            "dimat, wa or wm"
        )
    if method.exchanges == "never" or method.merges_once:
        raise ConfigError(
            "'method' does not exchange every so many steps, which is what an agent does here: use "
            "dimat, wa or wm"
        )
    check_lasting(topology)
    check_needs("method", method, topology.at(0))
    return method


def _check(
    model: nn.Module, every: int, precision: str, timeout_s: float, patience_s: float
) -> None:
    check_whole("every", every)
    if precision not in ("float32", "bfloat16"):
        raise ConfigError(f"'precision' is {precision!r}: must be 'float32' or 'bfloat16'")
    for name, value in (("timeout_s", timeout_s), ("patience_s", patience_s)):
        check_kind(name, value, Real, "a number > 0 and finite")
        if not 0 < value < float("inf"):
            raise ConfigError(f"'{name}' is {value}: must be > 0 and finite")
    kinds = {value.dtype for value in model.parameters()}
    if not kinds <= {torch.float32, torch.float64, torch.complex64, torch.complex128} or not kinds:
        raise ModelError(
            f"the model's parameters are {', '.join(sorted(map(str, kinds))) or 'none'}: they must "
            "be float32, float64 or complex; for bfloat16 arithmetic use autocast"
        )


def _check_kinds(optimizer: object, topology: object, symmetry: object) -> None:
    if optimizer is not None and not hasattr(optimizer, "param_groups"):
        rule = "a torch.optim.Optimizer of the model's parameters, or None"
        raise ConfigError(f"'optimizer' is {quoted(optimizer)}: must be {rule}")
    if not isinstance(topology, str) and not hasattr(topology, "num_agents"):
        rule = "a name, such as 'ring', or what dimat.build_topology gave"
        raise ConfigError(f"'topology' is {quoted(topology)}: must be {rule}")
    if symmetry is not None:
        check_kind("symmetry", symmetry, Symmetry, "what dimat.Symmetry.from_axes gave")


def _hook(optimizer: torch.optim.Optimizer | None, step: Callable[[], object]) -> RemovableHandle:
    """Register a function that the optimizer calls at the end of each of its steps."""
    if optimizer is None:
        raise ConfigError("'hook' is True and 'optimizer' is None: give the optimizer, or no hook")

    def after(*called: object) -> None:
        step()

    return optimizer.register_step_post_hook(after)


def _exchanged(model: nn.Module, calls: Calls) -> frozenset[str]:
    """State keys of what training changes, by a pass over the first batch."""
    if not calls.calls:
        raise ConfigError("'exchange' is 'trainable', and there is no batch: give 'calibration'")
    with calls.blamed(model):
        return trained_keys(model, calls.calls[0].args, calls.calls[0].kwargs)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _graph(topology: Network) -> str:
    """A graph as short text with a digest: a list of a large graph's edges is too long to send."""
    ends = topology.graph.edges
    edges = sorted((i, j) if topology.directed else (min(i, j), max(i, j)) for i, j in ends)
    return f"{topology.name} of {len(edges)} edges, digest {_digest(str(edges).encode())}"


def _matrix(topology: Network) -> str:
    """The digest of a mixing matrix, rounded: machines may differ in the last bits."""
    pi = np.asarray(topology.at(0).pi, np.float64).round(12) + 0.0  # without negative zeros
    return f"of digest {_digest(pi.astype('<f8').tobytes())}"


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]


def _shapes(model: nn.Module) -> str:
    """Names and shapes of a model's entries, one a line: a mismatch can then name the entry."""
    entries = {**dict(model.named_parameters()), **tensors_of(model.state_dict())}
    return "\n".join(f"{name} {tuple(value.shape)}" for name, value in entries.items())
