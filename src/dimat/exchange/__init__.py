"""The exchange of messages between agents: one protocol, several transports.

An agent's part of a method is a generator: it yields a :class:`Step` (messages to send, neighbors
to hear) and is resumed with what arrived. The generator knows nothing of ranks, barriers or
transports; a transport runs it. In one process, :func:`dimat.exchange.in_process.run_all` runs all.
"""

from dimat.exchange.protocol import Inbox, Message, Step, Talk, Traffic, Transport

__all__ = ["Inbox", "Message", "Step", "Talk", "Traffic", "Transport"]
