"""Whether Inductor gives a kernel a second form, which the kernel's registers decide, and so times both.

A reduction of many blocks whose threads hold many registers gets a form with half its block
(`CachingAutotuner._dynamic_scale_rblock` of torch/_inductor/runtime/triton_heuristics.py). What a thread holds is known
once the kernel is compiled, which Triton and the `ptxas` that comes with it do for a card that is not there. That takes
half a second, so it is done only where some number of registers would give a second form.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

MOST = 255
"""Registers that a thread may have (CUDA C++ Programming Guide, technical specifications by compute capability)."""
_REGISTERS = 0x2F
"""`EIATTR_REGCOUNT`, an attribute in the section `.nv.info` of what ptxas makes (`cuobjdump -elf` names them)."""
_SIZED = 0x04
"""`EIFMT_SVAL`: the attribute's value follows its size; other formats have two bytes of value."""


def forms(kernel: Any) -> int | None:
    """How many forms of a `CachingAutotuner` there are at its first launch; None if its one form may get a second and
    the registers cannot be told here."""
    own = len(kernel.configs)
    if own > 1 or _forms(kernel, lambda _: MOST) == 1:
        return own
    try:
        return _forms(kernel, lambda config: registers_of(_compiled(kernel, config)))
    except Exception:  # no ptxas for this machine or card, or a kernel that the Triton here refuses
        return None


def _forms(kernel: Any, registers: Callable[[Any], int]) -> int:
    """Forms by torch's own rule, asked on a copy that launches nothing; a second form may get a third."""

    def form(config: Any) -> Any:
        return SimpleNamespace(config=config, kernel=SimpleNamespace(n_regs=registers(config)))

    asked = object.__new__(type(kernel))
    made = [form(config) for config in kernel.configs]
    vars(asked).update(vars(kernel), compile_results=made, _precompile_config=form, _make_launchers=_nothing)
    asked._dynamic_scale_rblock()
    return len(made)


def _nothing() -> None:
    pass


def _compiled(kernel: Any, config: Any) -> bytes:
    """As `CachingAutotuner._precompile_config` compiles it."""
    heuristics: Any = import_module("torch._inductor.runtime.triton_heuristics")
    compile_: Any = import_module("triton").compile
    meta = kernel._create_compile_meta(config)
    source = heuristics.ASTSource(kernel.fn, meta["signature"], meta["constants"], meta["configs"][0])
    target = heuristics.GPUTarget("cuda", meta["cc"], 32)
    made = compile_(source, target=target, options=kernel._create_compile_options(config, meta))
    return bytes(made.asm["cubin"])


def registers_of(cubin: bytes) -> int:
    """Registers of a thread, of the function of a cubin that takes most; ValueError if none is told."""
    found = [struct.unpack_from("<II", value)[1] for kind, value in _attributes(cubin) if kind == _REGISTERS]
    if not found:
        raise ValueError("a cubin without a count of registers")
    return max(found)


def _attributes(cubin: bytes) -> list[tuple[int, bytes]]:
    """Of `.nv.info`: kind and value."""
    info, at, found = _section(cubin, b".nv.info"), 0, []
    while at < len(info):
        shape, kind, size = struct.unpack_from("<BBH", info, at)
        at += 4
        if shape == _SIZED:
            found.append((kind, info[at : at + size]))
            at += size
    return found


def _section(cubin: bytes, name: bytes) -> bytes:
    """Of an ELF file of 64 bits: its header has where the table of sections is (0x28), how large a row is, how many
    there are and which has the names (0x3A); a row has name, type, flags, address, offset, size."""
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    row, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    rows = [struct.unpack_from("<IIQQQQ", cubin, table + number * row) for number in range(count)]
    for start, _, _, _, offset, size in rows:
        if cubin[rows[names][4] + start :].split(b"\0", 1)[0] == name:
            return cubin[offset : offset + size]
    return b""
