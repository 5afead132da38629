"""The catalogue of GPUs."""

from __future__ import annotations

import pytest

from memgraph.errors import UsageError
from memgraph.gpu.specs import GIB, MIB, all_gpus, find


def test_the_h200_is_as_measured() -> None:
    card = find("h200")
    assert (card.memory, card.capability, card.sms, card.l2) == (150_109_880_320, (9, 0), 132, 60 * MIB)
    assert card.context == 554_500_096
    assert card.max_threads_per_sm == 2048


@pytest.mark.parametrize("name", ["rtx3090", "RTX 3090", "rtx-3090", "NVIDIA GeForce RTX 3090", "nvidiageforcertx3090"])
def test_a_card_is_found_by_either_name_however_it_is_written(name: str) -> None:
    assert find(name).name == "rtx3090"


def test_a_mistyped_card_is_answered_with_the_closest() -> None:
    with pytest.raises(UsageError, match="rtx3090"):
        find("rtx3900")


def test_names_and_titles_are_each_one_card() -> None:
    cards = all_gpus()
    assert len({card.name for card in cards}) == len({card.title for card in cards}) == len(cards) >= 20
    for card in cards:
        assert find(card.name) is find(card.title) is card


@pytest.mark.parametrize("card", all_gpus(), ids=lambda card: card.name)
def test_every_card_is_plausible(card: object) -> None:
    """Guards against a slip in the table: a wrong unit, a swapped column."""
    from memgraph.gpu.specs import GpuSpec

    assert isinstance(card, GpuSpec)
    assert 3 * GIB < card.memory < 300 * GIB
    assert card.title.startswith("NVIDIA ")
    assert (6, 0) <= card.capability <= (12, 0)
    assert 10 <= card.sms <= 200
    assert MIB <= card.l2 <= 128 * MIB
    assert 0.1e12 < card.bandwidth < 10e12
    assert card.float_rate <= card.half_rate
    assert 0 < card.context < 0.1 * card.memory
    assert card.max_threads_per_sm in (1024, 1536, 2048)


def test_memory_is_what_torch_reports_and_less_than_the_name_says() -> None:
    # In GiB, as torch's own messages print it.
    for name, nominal, reported in (("rtx3090", 24, 23.69), ("a100-80gb", 80, 79.14), ("t4", 16, 14.58)):
        assert find(name).memory == int(reported * GIB)
        assert reported < nominal


def test_the_context_is_in_proportion_to_the_multiprocessors() -> None:
    assert find("rtx3090").context == 554_500_096 * 82 // 132


@pytest.mark.parametrize(
    ("name", "threads"), [("t4", 1024), ("v100-16gb", 2048), ("a100-40gb", 2048), ("rtx3090", 1536), ("rtx4090", 1536)]
)
def test_threads_that_a_multiprocessor_holds(name: str, threads: int) -> None:
    # CUDA C++ Programming Guide, technical specifications per compute capability.
    assert find(name).max_threads_per_sm == threads


def test_bfloat16_came_with_ampere() -> None:
    assert not find("t4").supports_bf16
    assert find("a100-40gb").supports_bf16
