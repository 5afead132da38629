"""What is known to be done when, where nothing takes time."""

from __future__ import annotations

import itertools

import pytest

from memgraph.gpu.order import Awaited, Order

A, B, C = 3, 35, 67


def test_the_host_knows_what_it_waited_for_and_what_that_had_waited_for() -> None:
    order = Order()
    order.wait(B, order.record(A))  # B goes on after A's first mark
    order.record(A)
    order.synchronize(order.record(B))
    assert order.is_done(A, 1) and order.is_done(B, 1)
    assert not order.is_done(A, 2)


def test_a_chain_of_waits_is_followed_and_a_later_wait_is_not() -> None:
    order = Order()
    order.wait(B, order.record(A))
    order.wait(C, order.record(B))
    early = order.record(C)
    order.wait(C, order.record(A))
    order.synchronize(early)
    assert order.is_done(A, 1) and order.is_done(B, 1) and order.is_done(C, 1)
    assert not order.is_done(A, 2)


def test_waiting_for_the_device_is_waiting_for_all_streams() -> None:
    order = Order()
    marks = [order.record(stream)[stream] for stream in (A, B, C, C)]
    assert marks == [1, 1, 1, 2]
    order.synchronize_device()
    assert order.is_done(A, 1) and order.is_done(B, 1) and order.is_done(C, 2) and not order.is_done(C, 3)


def test_what_several_streams_use_waits_for_all_of_them() -> None:
    order = Order()
    awaited: Awaited[str] = Awaited(order)
    awaited.add("block", {A, B})
    assert awaited and awaited.done() == []
    order.synchronize_stream(A)
    assert awaited.done() == []
    order.synchronize_stream(B)
    assert awaited.done() == ["block"] and not awaited and awaited.done() == []


def test_a_stream_is_asked_in_order() -> None:
    order = Order()
    awaited: Awaited[str] = Awaited(order)
    awaited.add("first", {A, B})
    between = order.record(A)
    awaited.add("second", {A})
    order.synchronize(between)
    assert awaited.done() == []  # A is past the first, which B still uses, and not past the second
    order.synchronize_stream(A)
    assert awaited.done() == ["second"]
    order.synchronize_stream(B)
    assert awaited.done() == ["first"]


def test_what_somebody_else_waited_for_is_not_asked_for_again() -> None:
    order = Order()
    awaited: Awaited[str] = Awaited(order)
    awaited.add("block", {A, B})
    awaited.drop("block")
    order.synchronize_device()
    assert not awaited and awaited.done() == []


@pytest.mark.parametrize("streams", list(itertools.permutations((A, B, C))))
def test_nothing_is_done_before_somebody_waited(streams: tuple[int, ...]) -> None:
    order = Order()
    for stream, other in itertools.pairwise(streams):
        order.wait(other, order.record(stream))
    assert not any(order.is_done(stream, 1) for stream in streams[:-1])
