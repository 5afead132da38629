"""Every operator of torch's own database, forward and backward, as on a CPU; see `op_db.py`.

`op_db_known.toml` lists those that are not, each with the reason, and the ops of which memgraph does not know what they
take besides their results. What is listed and is right after all fails too.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch

import memgraph
from tests.virtual.ops.op_db import difference, operators, samples_of

KNOWN = tomllib.loads(Path(__file__).with_name("op_db_known.toml").read_text(encoding="utf-8"))
OTHERWISE = {
    name: entry["reason"]
    for entry in KNOWN["otherwise"]
    for name in entry["ops"]
    if torch.__version__.startswith(entry.get("torch", ""))
}
CHUNKS = 24
WRITTEN_FOR = "2.13."
"""The torch of the lists: another one has other operators and samples, and may be right where they are not."""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_looks_are_those_of_a_cpu(chunk: int) -> None:
    ops = operators()[chunk::CHUNKS]
    samples = [sample for op in ops for sample in samples_of(op)]
    assert len(samples) > len(ops)
    with memgraph.virtual_gpu("h200") as gpu:
        found = [(sample.key, difference(sample)) for sample in samples]
    wrong = {key: text for key, text in found if text}
    assert {key: text for key, text in wrong.items() if key[0] not in OTHERWISE} == {}
    assert set(gpu.trace.unknown_ops) <= set(KNOWN["unknown"]["ops"])
    if torch.__version__.startswith(WRITTEN_FOR):
        seen = {sample.key[0] for sample in samples}
        assert seen & OTHERWISE.keys() == {name for name, _ in wrong}, "listed in op_db_known.toml, and right after all"


def test_each_entry_says_why() -> None:
    assert all(len(reason) > 20 for reason in OTHERWISE.values())
