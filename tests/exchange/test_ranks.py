"""Ranks lose nothing, or say whom they lost; and leave nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta

import pytest
import torch
from tests.exchange.forked import LONG_S, environments, on_ranks, outcomes, ranked
from tests.exchange.test_transports import gossip, in_process, once, over_ranks
from torch import Tensor
from torch import distributed as dist  # noqa: TID251

from dimat.errors import ConfigError, ExchangeError, StructureError
from dimat.exchange import Message, Step, Talk, Traffic
from dimat.exchange.ranks import Peers
from dimat.exchange.torchrun import Torchrun, exchange_addresses, own_host, place, world


def heard(own: Torchrun, rounds: int, near: Sequence[int]) -> list[dict[int, int]]:
    """What the one agent of a rank hears from its neighbors."""
    talk = gossip(near, own.rank, rounds, 0)
    return own.transport(own.size).run({own.rank: talk}, {own.rank: Traffic()})[own.rank]


def test_in_other_processes_the_error_is_that_a_rank_is_lost() -> None:
    """Rank 0 fails; ranks 1 and 2, who wait for it and for each other, know it without waiting."""

    def rank(own: Torchrun) -> None:
        def talk() -> Talk[None]:
            others = [j for j in range(3) if j != own.rank]
            yield Step({j: {} for j in others}, others)
            if own.rank == 0:
                raise ValueError("agent 0 lost its data")
            yield Step({}, [own.rank - 1])

        own.transport(3).run({own.rank: talk()}, {own.rank: Traffic()})

    said = [str(error) for error in outcomes(ranked(3, rank))]
    lost = "rank {} is lost: it said goodbye"
    assert said == ["agent 0 lost its data", lost.format(0), lost.format(1)]


def test_a_rank_that_is_killed_is_named_at_once() -> None:
    def rank(own: Torchrun) -> None:
        others = [j for j in range(3) if j != own.rank]
        heard(own, 2, others)
        if own.rank == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        heard(own, 1, [2])

    found = outcomes(ranked(3, rank))
    assert found.pop() == -signal.SIGKILL
    for error in found:
        assert isinstance(error, ExchangeError)
        assert str(error).startswith("rank 2 is lost: ")
        assert "goodbye" not in str(error)


def test_a_rank_that_ends_early_is_missed_by_nobody_who_needs_nothing_of_it() -> None:
    def rank(own: Torchrun) -> object:
        first = heard(own, 1, [j for j in range(3) if j != own.rank])
        if own.rank == 0:
            return first
        return heard(own, 50, [3 - own.rank])

    found = on_ranks(3, rank)
    assert found[0] == [{1: 1000, 2: 2000}]
    assert [own[-1] for own in found[1:]] == [{2: 2049}, {1: 1049}]


def test_who_only_sends_may_do_so_to_one_that_has_ended() -> None:
    def rank(own: Torchrun) -> int:
        if own.rank == 1:
            return 0

        def talk() -> Talk[int]:
            for _ in range(200):
                yield Step({1: {"x": torch.ones(1000)}})
            return 0

        return own.transport(2).run({0: talk()}, {0: Traffic()})[0]

    assert on_ranks(2, rank) == [0, 0]


def test_ranks_of_unlike_settings_do_not_begin_and_say_what_differs() -> None:
    def rank(own: Torchrun) -> None:
        own.agree({"seed": str(own.rank // 2), "rounds": "3", "graph": "0 1\n1 2"})
        heard(own, 1, [j for j in range(3) if j != own.rank])

    found = outcomes(ranked(3, rank))
    assert all(isinstance(error, ExchangeError) for error in found)
    differs = "rank {} has other settings: 'seed' is {} there and {} here"
    assert [*map(str, found)] == [differs.format(*own) for own in [(2, 1, 0), (2, 1, 0), (0, 0, 1)]]


def test_ranks_of_like_settings_go_on() -> None:
    def rank(own: Torchrun) -> object:
        own.agree({"seed": "1"})
        return heard(own, 2, [1 - own.rank])

    assert on_ranks(2, rank) == [[{1: 1000}, {1: 1001}], [{0: 0}, {0: 1}]]


def test_a_rank_that_never_comes_is_waited_for_as_long_as_patience_says() -> None:
    alone = environments(2)[0]
    with pytest.raises(ExchangeError, match=r"ranks \[1\] have not come for 0.4 s .setting 'exch"):
        world(patience_s=0.4, environment=alone)
    with socket.create_server(("127.0.0.1", 0)) as free:
        nowhere = {**alone, "MASTER_PORT": str(free.getsockname()[1])}
    with pytest.raises(ExchangeError, match=r"store at 127.* does not answer for 0.1 s .setting"):
        world(patience_s=0.1, environment=nowhere)


@pytest.mark.slow
def test_a_rank_that_lives_is_waited_for_however_slow_it_is() -> None:
    patience_s = 15.0  # more than two processes can need to connect

    def rank(environment: Mapping[str, str]) -> object:
        own = world(patience_s=patience_s, environment=environment)
        if own.rank == 1:
            time.sleep(patience_s + 1)
        found = heard(own, 1, [1 - own.rank])
        own.close()
        return found

    works = [lambda own=own: rank(own) for own in environments(2)]  # type: ignore[misc]
    assert outcomes(works) == [[{1: 1000}], [{0: 0}]]


def test_agents_that_nobody_can_answer_fail_loudly_in_a_block_as_in_one_process() -> None:
    def shy(other: int) -> Talk[None]:
        yield Step(hear=[other])

    for carry in (in_process, over_ranks(1)):
        with pytest.raises(AssertionError, match=r"agents \[0, 1\] wait for messages that nobody"):
            once(carry, [lambda: shy(1), lambda: shy(0)])


# --- messages -------------------------------------------------------------------------------------


def entries() -> dict[str, Tensor]:
    """Hundreds, of all kinds."""
    generator = torch.Generator().manual_seed(1)
    own: dict[str, Tensor] = {}
    for k in range(60):
        x = torch.randn(1 + k % 7, 2, 3, 5, generator=generator)
        own |= {
            f"{k}": x,
            f"{k}/channels last": x.contiguous(memory_format=torch.channels_last),
            f"{k}/part": x[:, 1, :, ::2],
            f"{k}/turned": x[0, 0].t()[1:],
            f"{k}/half": x.bfloat16(),
            f"{k}/double": x.double()[..., 0],
            f"{k}/complex": torch.complex(x, -x).conj(),
            f"{k}/signs": x > 0,
            f"{k}/none": x[:0],
            f"{k}/one": x.sum(),
            f"{k}/wide": x[0, 0, 0, :1].expand(40),
            f"{k}/code": (x * 50).to(torch.int8),
        }
    return own


def test_hundreds_of_entries_arrive_bit_for_bit_in_order_with_their_layout() -> None:
    def rank(own: Torchrun) -> Message:
        def talk() -> Talk[Message]:
            inbox = yield Step({1 - own.rank: entries()}, [1 - own.rank])
            return inbox[1 - own.rank]

        return own.transport(2).run({own.rank: talk()}, {own.rank: Traffic()})[own.rank]

    expected = entries()
    for message in on_ranks(2, rank):
        assert [*message] == [*expected]
        torch.testing.assert_close(dict(message), expected, rtol=0, atol=0)
        for key, value in expected.items():
            assert message[key].dtype == value.dtype
            assert message[key].stride() == torch.empty_like(value).stride(), key


def test_what_does_not_travel_is_refused_by_name() -> None:
    def rank(own: Torchrun) -> None:
        def talk() -> Talk[None]:
            yield Step(
                {1: {"w": torch.eye(3).to_sparse()}} if own.rank == 0 else {}, [1 - own.rank]
            )

        own.transport(2).run({own.rank: talk()}, {own.rank: Traffic()})

    sparse, lost = outcomes(ranked(2, rank))
    assert isinstance(sparse, StructureError)
    assert str(sparse).startswith("'w' cannot be sent: it is torch.sparse_coo")
    assert str(lost) == "rank 0 is lost: it said goodbye"


def test_one_message_for_all_agents_of_another_rank_travels_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[int] = []
    send = Peers.send

    def counted(self: Peers, rank: int, parts: Sequence[Tensor]) -> None:
        sent.append(rank)
        send(self, rank, parts)

    monkeypatch.setattr(Peers, "send", counted)

    def rank(own: Torchrun) -> tuple[list[int], list[float]]:
        def talk(agent: int) -> Talk[float]:
            others = [j for j in range(9) if j != agent]
            message = {"x": torch.tensor([2.0**agent])}
            inbox = yield Step(dict.fromkeys(others, message), others)
            return float(sum(own["x"] for own in inbox.values()))

        transport = own.transport(9)
        talks = {i: talk(i) for i in transport.agents}
        results = transport.run(talks, {i: Traffic() for i in talks})
        return sent, [*results.values()]

    found = on_ranks(3, rank)
    assert [own for own, _ in found] == [[1, 2] * 3, [0, 2] * 3, [0, 1] * 3]
    assert [x for _, own in found for x in own] == [511.0 - 2.0**i for i in range(9)]


# --- groups and addresses -------------------------------------------------------------------------


def test_a_group_that_the_caller_has_made_stays_theirs() -> None:
    def rank(environment: Mapping[str, str]) -> object:
        at = place(environment)
        store = dist.TCPStore(at.host, at.port, None, False)  # type: ignore[attr-defined]
        store = dist.PrefixStore(at.attempt, store)  # type: ignore[attr-defined]
        dist.init_process_group(
            "gloo", store=store, rank=at.rank, world_size=2, timeout=timedelta(seconds=LONG_S)
        )
        own = world(patience_s=LONG_S, environment=environment)
        found = heard(own, 2, [1 - own.rank])
        own.close()
        total = torch.tensor(own.rank + 1)
        dist.all_reduce(total)
        dist.destroy_process_group()
        return found, int(total)

    works = [lambda own=own: rank(own) for own in environments(2)]  # type: ignore[misc]
    assert outcomes(works) == [([{1: 1000}, {1: 1001}], 3), ([{0: 0}, {0: 1}], 3)]


def test_a_process_may_have_one_world_after_the_other() -> None:
    def rank(environment: Mapping[str, str]) -> object:
        found = []
        for k in range(3):
            own = world(patience_s=LONG_S, environment=environment)
            found += heard(own, k, [1 - own.rank])
            own.close()
        return found

    works = [lambda own=own: rank(own) for own in environments(2)]  # type: ignore[misc]
    assert outcomes(works) == [[{1: 1000}, {1: 1000}, {1: 1001}], [{0: 0}, {0: 0}, {0: 1}]]


def test_ranks_know_the_addresses_of_all_by_name_and_never_those_of_the_last_time() -> None:
    def rank(environment: Mapping[str, str]) -> object:
        at = place(environment)
        return [
            exchange_addresses(at, f"{own_host(at)}:{at.rank}{k}", name, LONG_S)
            for k, name in enumerate(["a", "b", "a"])
        ]

    works = [lambda own=own: rank(own) for own in environments(3)]  # type: ignore[misc]
    expected = [{rank: f"127.0.0.1:{rank}{k}" for rank in range(3)} for k in range(3)]
    assert outcomes(works) == [expected] * 3
    with pytest.raises(ExchangeError, match=r"ranks \[0, 2\] have not come for 0.1 s"):
        exchange_addresses(place(environments(3)[1]), "here:1", "a", 0.1)


def test_an_address_that_other_machines_cannot_reach_is_not_given_to_them() -> None:
    spread = {**environments(2)[0], "LOCAL_WORLD_SIZE": "1"}
    with pytest.raises(ConfigError, match=r"MASTER_ADDR is 127.0.0.1, .*--rdzv-endpoint"):
        own_host(place(spread))


def test_rank_0_listens_on_the_one_address_that_it_is_given() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    environment["MASTER_PORT"] = str(port)

    def rank() -> object:
        found = exchange_addresses(place(environment), "me", "a", LONG_S)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port))
        return found

    assert outcomes([rank]) == [{0: "me"}]


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"RANK": "2"}, "RANK is 2 and WORLD_SIZE 2: must be 0 <= RANK < WORLD_SIZE"),
        ({"MASTER_PORT": "x"}, "must be as torchrun sets them: invalid literal"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(own: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        place({**environments(2)[0], **own})
