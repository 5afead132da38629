"""Second forms of Inductor's kernels, which the registers of a thread decide."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import memgraph
from memgraph.gpu.specs import find
from memgraph.virtual.inductor import registers
from memgraph.virtual.inductor.tuning import first_launch, timer

MIB = 2**20
FLUSH = 60 * MIB
"""The L2 cache of an H200, which a trial flushes with a buffer."""


class Kernel:
    """As a `CachingAutotuner` with one form: 64 registers for each of its block's 128 columns, half of them a half."""

    mutated_arg_names = ()
    optimize_mem = True

    def __init__(self, block: int) -> None:
        self.configs = [block]
        self.fn = SimpleNamespace(arg_names=[], __name__="triton_red")
        self.compile_results: list[Any] = []

    def _precompile_config(self, _block: int) -> Any:
        raise AssertionError("the real kernel is not compiled")

    def _make_launchers(self) -> None:
        raise AssertionError("the real kernel is not launched")

    def _dynamic_scale_rblock(self) -> None:
        for form in self.compile_results:
            if form.config > 64 and form.kernel.n_regs > 32:
                self.compile_results.append(self._precompile_config(form.config // 2))
        self._make_launchers()


def cubin(*counts: int) -> bytes:
    """An ELF file of two sections: `.nv.info`, with counts of registers after an attribute of another kind, and
    names."""
    info = struct.pack("<BBH", 3, 0x2F, 9) + b"".join(struct.pack("<BBHII", 4, 0x2F, 8, 1, count) for count in counts)
    info += struct.pack("<BBHII", 4, 0x11, 8, 1, 200)
    names = b"\0.nv.info\0.strtab\0"
    rows = [struct.pack("<IIQQQQ", 1, 0, 0, 0, 64, len(info)), struct.pack("<IIQQQQ", 10, 3, 0, 0, 64 + len(info), 17)]
    header = bytearray(64)
    struct.pack_into("<Q", header, 0x28, 64 + len(info) + len(names))
    struct.pack_into("<HHH", header, 0x3A, 64, 2, 1)
    return bytes(header) + info + names + b"".join(row.ljust(64, b"\0") for row in rows)


def test_a_cubin_tells_the_registers_of_the_function_that_takes_most() -> None:
    assert registers.registers_of(cubin(46, 102, 8)) == 102


def test_a_cubin_without_a_count_is_refused() -> None:
    with pytest.raises(ValueError, match="without a count"):
        registers.registers_of(cubin())


def forms(monkeypatch: pytest.MonkeyPatch, block: int, compiled: Callable[[Any, Any], bytes]) -> int | None:
    monkeypatch.setattr(registers, "_compiled", compiled)
    return registers.forms(Kernel(block))


def test_registers_decide_about_a_second_form_and_the_second_s_about_a_third(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 256, 128 and 64, where the last is too small for another; and 64, 32 registers: no third."""
    assert forms(monkeypatch, 256, lambda *_: cubin(33)) == 3
    assert forms(monkeypatch, 256, lambda _, block: cubin(block // 4)) == 2
    assert forms(monkeypatch, 256, lambda *_: cubin(32)) == 1


def test_nothing_is_compiled_where_no_registers_would_give_a_second_form(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> bytes:
        raise SystemExit("compiled")

    assert forms(monkeypatch, 64, never) == 1


def test_where_it_cannot_be_compiled_both_are_taken_to_be_timed_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registers, "_compiled", lambda *_: 1 / 0)
    told: list[str] = []
    with memgraph.virtual_gpu("h200") as gpu:
        first_launch(timer(find("h200"), contextlib.nullcontext), told.append)(Kernel(128))
        trace = gpu.trace
    assert [buffer.size for buffer in trace.buffers] == [FLUSH, FLUSH]
    assert told == ["triton_red is taken to be timed in two forms: the registers it takes are not known here"]


def test_a_compiled_reduction_of_many_blocks_is_timed_in_more_than_one_form() -> None:
    """Rows of 2,048 are reduced in three ways at once by 65,536 / 2 blocks of 16 warps. Of those whose threads have
    more than 32 registers an H200 holds 65,536 // (33 x 32 x 16) = 3 a multiprocessor, so at most 3 x 132 at once,
    fewer than there are. Of 64 rows there are 32 blocks; rows of 512 are reduced at once (persistent)."""

    def reduced(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return rows.softmax(-1).amax(-1), rows.sin().cumsum(-1).amax(-1), rows.tan().erf().amin(-1)

    def trials(rows: int, columns: int) -> int:
        with memgraph.virtual_gpu("h200") as gpu:
            torch.compile(reduced)(torch.empty(rows, columns, device="cuda"))
            trace = gpu.trace
        return sum(buffer.size == FLUSH for buffer in trace.buffers)

    assert trials(2**16, 2048) > 1
    assert trials(64, 2048) == trials(2**16, 512) == 0
