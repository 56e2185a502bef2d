"""The site of an agent: where its neighbors are, where it listens, and what protects both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dimat.errors import ConfigError
from dimat.exchange.network.peers import PeersFile
from dimat.exchange.network.security import Security, require_protection, security_of

if TYPE_CHECKING:  # a site is checked before PyTorch is imported
    import torch

    from dimat.exchange.network.link import Rules
    from dimat.exchange.network.neighborhood import Neighborhood


@dataclass(frozen=True)
class AgentSite:
    """Where an agent of a run is, and what protects its connections.

    Args:
        peers: The file ``peers.yaml``, of the addresses of all agents.
        certificates: Folder of the agent's certificate and key, made by ``dimat certificates``.
            None: plaintext.
        listen: HOST:PORT where the agent listens, if others reach it at another address; None: at
            its own address in ``peers``.
        insecure: Whether to talk in plaintext, which is then for agents on this machine alone.
        trusted_network: Whether to talk in plaintext on a network whose users may all read and
            change what is said.
        run: Name of the run, alike at all agents; with certificates, they name it.
    """

    peers: Path
    certificates: Path | None = None
    listen: str | None = None
    insecure: bool = False
    trusted_network: bool = False
    run: str | None = None

    def neighborhood(
        self,
        agent: int,
        neighbors: Sequence[int],
        rules: Rules | None = None,
        *,
        patience_s: float = 600.0,
        device: torch.device | str = "cpu",
    ) -> Neighborhood:
        """The agent among its neighbors, listening.

        Args:
            agent: The agent's number.
            neighbors: Numbers of all neighbors.
            rules: What all its links have in common.
            patience_s: The longest to wait for a neighbor that lives and says nothing.
            device: Where messages are wanted.

        Raises:
            ConfigError: If the file of addresses lacks an agent that is needed, there is nothing to
                protect the connections by, or nobody can be listened to.
        """
        from dimat.exchange.network.neighborhood import Neighborhood

        peers, listen, security = self.place(agent, neighbors)
        return Neighborhood(
            agent, peers, listen, security, rules, patience_s=patience_s, device=device
        )

    def security(self, agent: int) -> Security:
        """What proves who an agent is, and by what it knows others.

        Raises:
            ConfigError: If its certificate cannot be used, or it has none and nobody asked for
                plaintext.
        """
        own = security_of(self.certificates, self.run, agent, trusted_network=self.trusted_network)
        self._require_protection(own, [])
        return own

    def addresses(self, agent: int, neighbors: Sequence[int]) -> PeersFile:
        """The file of addresses, with all that are needed.

        Raises:
            ConfigError: If it cannot be read, or lacks one.
        """
        peers = PeersFile(self.peers)
        _check_reachable(peers, agent, neighbors)
        return peers

    def place(self, agent: int, neighbors: Sequence[int]) -> tuple[PeersFile, str | None, Security]:
        """The addresses, where the agent is to listen, and what protects its connections.

        Raises:
            ConfigError: As :meth:`neighborhood`.
        """
        peers, security = PeersFile(self.peers), self.security(agent)
        _check_reachable(peers, agent, neighbors)
        known = peers.agents
        listen = self.listen or known[agent]
        used = [listen, *(known[j] for j in neighbors)]
        self._require_protection(security, [address for address in used if address is not None])
        return peers, listen, security

    def _require_protection(self, security: Security, addresses: Sequence[str]) -> None:
        require_protection(
            security.identity,
            addresses,
            insecure=self.insecure,
            trusted_network=self.trusted_network,
        )


def _check_reachable(peers: PeersFile, agent: int, neighbors: Sequence[int]) -> None:
    """Require that one of any two neighbors can be dialed."""
    known = peers.agents
    for j in (agent, *neighbors):
        if j not in known:
            raise ConfigError(
                f"setting 'peers': {peers.path} lacks agent {j}, which is "
                f"{'this one' if j == agent else f'a neighbor of agent {agent}'}: add a line "
                f"'{j}: {{address: HOST:PORT}}', or '{j}: {{}}' if it can only dial"
            )
    for j in neighbors:
        if known[agent] is None and known[j] is None:
            raise ConfigError(
                f"setting 'peers': agents {agent} and {j} are neighbors, and neither has an "
                f"address in {peers.path}: one of the two must be reachable from the other"
            )
