"""Cards by files: what `memgraph gpus --describe` prints, what `nvidia-smi -q` prints, and what neither does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import memgraph
from memgraph.errors import UsageError
from memgraph.gpu.card_file import describe
from memgraph.gpu.specs import all_gpus, find

PRINTED = """
==============NVSMI LOG==============

Attached GPUs                                          : 1
GPU 00000000:00:06.0
    Product Name                                       : NVIDIA H200
    Product Brand                                      : NVIDIA
    FB Memory Usage
        Total                                          : 143771 MiB
        Reserved                                       : 616 MiB
        Used                                           : 0 MiB
        Free                                           : 143156 MiB
"""
"""Of an H200, driver 580.159."""
MIB = 2**20


@pytest.mark.parametrize("name", [card.name for card in all_gpus()])
def test_every_card_is_its_own_description(name: str, tmp_path: Path) -> None:
    file = tmp_path / "card.json"
    file.write_text(describe(find(name)))
    read, own = find(str(file)), find(name)
    assert (read.memory, read.capability, read.sms, read.l2) == (own.memory, own.capability, own.sms, own.l2)
    assert read.name == str(file)


def test_what_the_driver_prints(tmp_path: Path) -> None:
    """Its total less what it keeps: 143,771 - 616 MiB."""
    file = tmp_path / "card.txt"
    file.write_text(PRINTED)
    card = find(str(file))
    assert (card.title, card.memory) == ("NVIDIA H200", 143_155 * MIB)
    assert card.sms == 132


def test_a_run_on_a_card_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "card.json"
    told = json.loads(describe(find("rtx3060"))) | {"memory": 6000 * MIB, "counted": [[1, 28], [2, 14]]}
    file.write_text(json.dumps(told))
    with memgraph.virtual_gpu(str(file)) as gpu:
        pass
    assert gpu.spec.clusters == {1: 28, 2: 14}
    assert gpu.memory == 6000 * MIB - gpu.spec.context


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "neither"),
        ("{}", "no title"),
        ('{"title": "x", "memory": 1, "capability": [8, 6]}', "no sms"),
        ('{"title": "x", "memory": 1, "capability": [8, 6], "sms": 1}', "bandwidth"),
        ('{"title": "A10", "memory": -1, "capability": [8, 6], "sms": 1}', "memory is -1"),
        ('{"title": "A10", "memory": 1, "capability": "8.6", "sms": 1}', "card"),
        ('{"title": "A10", "memory": 1, "capability": 8.6, "sms": 1}', "card"),
        ("[" * 100_000, "neither"),
        ("{" * 100_000, "card"),
        ("\x00\xff binary", "neither"),
        (PRINTED.replace("H200", "Q9999"), "--describe"),
    ],
)
def test_what_is_no_card_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "card.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=said) as caught:
        find(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["MI300X", "amd", "Radeon VII", "RX 7900 XTX", "gfx942"])
def test_another_makers_cards_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(UsageError, match="AMD's"):
        find(name)


def test_slices_have_their_own_memory_and_multiprocessors() -> None:
    """NVIDIA's MIG User Guide: a 3g.20gb of an A100 has 19.62 GiB and 42 multiprocessors."""
    part = find("a100-40gb-3g.20gb")
    assert (round(part.memory / 2**30, 2), part.sms) == (19.62, 42)
