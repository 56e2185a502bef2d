"""Memory is lent to one at a time, and lent again when nobody looks at it any more."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dimat.exchange.network import buffers as pools
from dimat.exchange.network.buffers import Pool

PAGE = 1 << 12


def views(flat: Tensor) -> list[Tensor]:
    return [
        flat[1:9],
        flat.view(torch.int64),
        torch.as_strided(flat.view(torch.float32), (2, 3), (1, 2)),
        flat.view(torch.float32).to("cpu"),
        flat.detach(),
        flat.expand(2, -1),
        torch.from_numpy(flat.numpy()),
    ]


@pytest.mark.parametrize("k", range(7))
def test_a_buffer_is_not_lent_twice_while_any_view_of_it_lives(k: int) -> None:
    pool = Pool()
    flat = pool.take(800)
    place, kept = flat.data_ptr(), views(flat)[k]
    del flat
    other = pool.take(800)
    assert pool.sizes() == []
    assert other.data_ptr() != place
    del kept
    assert pool.sizes() == [PAGE]
    assert pool.take(800).data_ptr() == place


def test_the_smallest_that_fits_is_lent_and_none_that_is_much_too_large() -> None:
    pool = Pool()
    held = [pool.take(pages * PAGE) for pages in (40, 12, 20)]
    held.clear()
    assert sorted(pool.sizes()) == [12 * PAGE, 20 * PAGE, 40 * PAGE]
    assert pool.take(10 * PAGE).numel() == 10 * PAGE
    fits = pool.take(11 * PAGE)
    assert sorted(pool.sizes()) == [20 * PAGE, 40 * PAGE]
    small = pool.take(PAGE)
    assert sorted(pool.sizes()) == [20 * PAGE, 40 * PAGE]
    del fits, small


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_no_more_buffers_are_kept_than_it_was_told(keep: int) -> None:
    pool = Pool(keep)
    lent = [pool.take(8) for _ in range(5)]
    lent.clear()
    assert len(pool.sizes()) == keep


@pytest.mark.parametrize("size", [0, 1, 8, PAGE, PAGE + 1])
def test_what_is_lent_is_as_long_as_was_asked_for_new_or_used(size: int) -> None:
    pool = Pool()
    for _ in range(2):
        flat = pool.take(size)
        assert (flat.numel(), flat.dtype, flat.is_contiguous()) == (size, torch.uint8, True)
        assert flat.data_ptr() % 8 == 0
        del flat


def test_a_pool_that_is_gone_leaves_what_it_lent() -> None:
    pool = Pool()
    flat = pool.take(16).fill_(7)
    del pool
    gc.collect()
    assert flat.tolist() == [7] * 16


def test_a_buffer_that_comes_back_while_another_is_looked_for_is_not_mixed_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Garbage may be collected anywhere: here, in the midst of the search."""
    pool = Pool(keep=2)
    late = [pool.take(3 * PAGE) for _ in range(2)]
    early = [pool.take(PAGE), pool.take(9 * PAGE)]
    early.clear()

    def listed(free: list[object]) -> list[tuple[int, object]]:
        found = [*enumerate(free)]
        late.clear()
        return found

    monkeypatch.setattr(pools, "enumerate", listed, raising=False)
    assert pool.take(9 * PAGE).numel() == 9 * PAGE
    assert late == []


def together(work: Callable[[int], None], threads: int) -> None:
    errors: list[BaseException] = []

    def guarded(k: int) -> None:
        try:
            work(k)
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=guarded, args=(k,)) for k in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert errors == []


def test_threads_that_take_and_drop_at_once_never_share_memory() -> None:
    pool = Pool(keep=4)

    def work(k: int) -> None:
        held: list[Tensor] = []
        for turn in range(300):
            mark = 10 * k + turn % 10
            held.append(pool.take(PAGE * (1 + (k + turn) % 3)).fill_(mark))
            held[:] = held[-3:]
            for back, flat in enumerate(reversed(held)):
                assert int(flat[0]) == int(flat[-1]) == 10 * k + (turn - back) % 10

    together(work, 6)
    assert len(pool.sizes()) <= 4
