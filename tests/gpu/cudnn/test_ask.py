"""The process that asks cuDNN, and the memory of its answers, without cuDNN."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memgraph.gpu.cudnn import library
from memgraph.gpu.cudnn.ask import Asker
from memgraph.gpu.cudnn.card import describe
from memgraph.gpu.cudnn.library import Library
from memgraph.gpu.cudnn.question import Config, Convolution, question
from memgraph.gpu.rules.layout import dense
from memgraph.gpu.specs import find

H200 = find("h200")
NOWHERE = Library("/nowhere/libcudnn.so.9", (), "")


def asked(batch: int = 8) -> Convolution:
    image = dense((batch, 64, 56, 56), "float32")
    return question("forward", image, dense((64, 64, 3, 3), "float32"), image, (1, 1), (1, 1), (1, 1), False)


class Answered(Asker):
    """Counts its questions and answers them alike."""

    asked_for = 0

    def _ask(self, question: str) -> dict[str, object]:
        self.asked_for += 1
        return {"configs": [[67, [[2, 0], [13, 0]], [0], 4096, [17]]]}


def test_an_answer_is_asked_for_once_and_kept(tmp_path: Path) -> None:
    memory = tmp_path / "answers" / "one.jsonl"
    expected = (Config(67, ((2, 0), (13, 0)), (0,), 4096, (17,)),)
    first = Answered(NOWHERE, memory)
    assert [first.configs(asked(), H200) for _ in range(3)] == [expected] * 3
    assert first.asked_for == 1
    second = Answered(NOWHERE, memory)
    assert second.configs(asked(), H200) == expected
    assert second.asked_for == 0
    second.configs(asked(16), H200)
    second.configs(asked(), find("h100"))
    second.configs(asked(), H200, without=(0,))
    assert second.asked_for == 3


def test_a_library_that_was_asked_before_is_not_loaded_beforehand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begun: list[object] = []
    monkeypatch.setattr(Asker, "_running", lambda self: begun.append(self))
    memory = tmp_path / "one.jsonl"
    Asker(NOWHERE, memory).start()
    assert len(begun) == 1
    memory.write_text('{"version": 91900}\n')
    Asker(NOWHERE, memory).start()
    assert len(begun) == 1


def test_a_memory_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    memory = tmp_path / "one.jsonl"
    Answered(NOWHERE, memory).configs(asked(), H200)
    memory.write_text('{"version": 91900}\n[1, 2]\n\x00garbage\n' + memory.read_text() + '{"cut')
    again = Answered(NOWHERE, memory)
    assert again.version == 91900
    again.configs(asked(), H200)
    assert again.asked_for == 0


def test_a_library_that_dies_takes_nothing_along(tmp_path: Path) -> None:
    """It is tried twice, then left alone; nothing of it is remembered on disk."""
    asker = Asker(NOWHERE, tmp_path / "one.jsonl")
    assert [asker.configs(asked(batch), H200) for batch in (1, 2, 3)] == [(), (), ()]
    assert asker.version == 0
    assert not (tmp_path / "one.jsonl").exists()


def test_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in ("off", "0", "/nowhere/libcudnn.so.9"):
        monkeypatch.setenv(library.VARIABLE, setting)
        library.find.cache_clear()
        assert library.find() is None
    library.find.cache_clear()


def test_without_cublaslt_it_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It would end the process: `Cannot load symbol cublasLtGetVersion`."""
    here = tmp_path / "libcudnn.so.9"
    here.write_bytes(b"")
    monkeypatch.setenv(library.VARIABLE, str(here))
    monkeypatch.setattr(library, "_packaged", lambda name: None)
    library.find.cache_clear()
    assert library.find() is None
    library.find.cache_clear()


def test_the_description_of_an_h200() -> None:
    """As cuDNN gives it on one, but for the place on the bus."""
    described = json.loads(describe(H200))
    assert described["deviceName"] == "NVIDIA H200"
    assert (described["deviceVer"], described["multiProcessorCount"]) == (900, 132)
    assert (described["totalGlobalMem"], described["l2CacheSize"]) == (150_109_880_320, 62_914_560)
    assert described["maxSharedMemoryPerBlockOptin"] == 232_448
