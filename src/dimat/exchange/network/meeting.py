"""How the two ends of an edge agree on a place to meet, again and again, whoever died meanwhile.

The end of the higher number asks: it writes a token that nobody used before. The other end answers
with the token and a word of its own; under that name both join. Each attempt has a new name, so
that nothing of an earlier one, or of an end that is no more, is ever met.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from dimat.exchange.network.pipe import Pipe
from dimat.exchange.network.rendezvous import Directory

JOIN_S = 5.0  # seconds that who comes first waits for the other, once both have a name
_RENEW_S = 4 * JOIN_S  # a token that was answered by nobody
_GLOO_KEY = "0/"  # where Gloo writes the address of a side, under the name of the attempt
_QUICK_S, _SLOW_S = 0.02, 0.25


def meet(
    board: Directory, own: int, other: int, address: str, wanted: Callable[[], bool]
) -> Pipe | None:
    """Join the other end, however long it takes.

    Args:
        board: The store's keys, for this thread.
        own: Our number.
        other: Its number.
        address: Where we are to be reached.
        wanted: Whether to go on trying; asked often.

    Returns:
        The pipe; None if it is not wanted any more.

    Raises:
        Broken: If an attempt failed; try again.
        ExchangeError: If the store cannot be reached; try again later.
    """
    edge = f"edge/{min(own, other)}-{max(own, other)}"
    name = _answer(board, edge, wanted) if own < other else _ask(board, edge, wanted)
    if name is None:
        return None
    return Pipe(board.under(f"{edge}/{name}"), int(own > other), address, JOIN_S)


def _ask(board: Directory, edge: str, wanted: Callable[[], bool]) -> str | None:
    token, since = uuid.uuid4().hex, time.monotonic()
    while wanted():
        board.put(f"{edge}/token", token)  # again and again: the store may have been replaced
        name = board.look(f"{edge}/name")
        if name is not None and name.startswith(token):
            return name
        if time.monotonic() - since > _RENEW_S:
            token, since = uuid.uuid4().hex, time.monotonic()
        _rest(since)
    return None


def _answer(board: Directory, edge: str, wanted: Callable[[], bool]) -> str | None:
    since, before = time.monotonic(), board.look(f"{edge}/name")
    answered = (before or "").partition(".")[0]
    while wanted():
        token = board.look(f"{edge}/token")
        if token is not None and token != answered:
            # Who asks anew has given up the attempt before: an edge never has many keys.
            for side in range(2):
                board.drop(f"{edge}/{before}/{_GLOO_KEY}{side}")
            name = f"{token}.{uuid.uuid4().hex}"
            board.put(f"{edge}/name", name)
            return name
        _rest(since)
    return None


def _rest(since: float) -> None:
    """Look often at first, then seldom."""
    time.sleep(_QUICK_S if time.monotonic() - since < 2 else _SLOW_S)
