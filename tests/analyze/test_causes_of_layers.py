"""Causes in what libraries keep beside a program's own tensors: cuDNN's reserve, the buckets of data parallelism."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

import memgraph
from memgraph.analyze.causes_of_gradients import gradients_and_buckets
from memgraph.analyze.causes_of_recurrence import recurrent_reserve
from memgraph.trace import Trace
from tests.world.test_parallel import on_the_card, shard, trained

MIB = 2**20


def listened(kind: type[nn.RNNBase], *, train: bool, backward: bool, length: int = 200) -> Trace:
    """Two layers of 256 over a batch of 32."""
    with memgraph.virtual_gpu("t4") as gpu:
        net = kind(256, 256, num_layers=2).cuda().train(train)
        with contextlib.nullcontext() if backward else torch.no_grad():
            out = net(torch.randn(length, 32, 256, device="cuda"))[0].sum()
            if backward:
                out.backward()
    return gpu.trace


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_the_reserve_of_recurrent_layers(kind: type[nn.RNNBase]) -> None:
    """At least five values (a GRU: six) of 256 for each of 200 steps of 32, in each of two layers: 125 MiB of fp32."""
    (told,) = recurrent_reserve(listened(kind, train=True, backward=True))
    assert told.bytes >= 2 * 5 * 200 * 32 * 256 * 4
    assert told.where.startswith("analyze/test_causes_of_layers.py:")
    assert "checkpoint(rnn, piece, state" in told.help


def test_a_reserve_for_no_backward() -> None:
    (told,) = recurrent_reserve(listened(nn.LSTM, train=True, backward=False))
    assert "which never comes" in told.what
    assert told.help.startswith("rnn.eval()")


def test_where_no_reserve_shows_nothing_is_told() -> None:
    """Of a module that does not train there is none; of two steps it is less than the weights."""
    assert recurrent_reserve(listened(nn.LSTM, train=False, backward=False)) == ()
    assert recurrent_reserve(listened(nn.LSTM, train=True, backward=True, length=2)) == ()
    assert recurrent_reserve(listened(nn.RNN, train=False, backward=False)) == ()


def parallel(*, views: bool) -> Trace:
    return trained(
        lambda module: nn.parallel.DistributedDataParallel(on_the_card(module), gradient_as_bucket_view=views), 3
    )


def test_gradients_beside_the_buckets_of_data_parallelism() -> None:
    """Two layers of 4 MiB, in one bucket, and once more as gradients."""
    (told,) = gradients_and_buckets(parallel(views=False))
    assert told.bytes == 8 * MIB
    assert told.where.startswith("analyze/test_causes_of_layers.py:")
    assert "gradient_as_bucket_view=True" in told.help


def test_gradients_that_are_views_or_shards_or_of_one_card_are_not_told() -> None:
    assert gradients_and_buckets(parallel(views=True)) == ()
    assert gradients_and_buckets(trained(lambda module: shard(on_the_card(module)))) == ()
    assert gradients_and_buckets(trained(on_the_card)) == ()
