"""A CUDA runtime that is none, for the tests of the allocator hook: it takes memory from the host. Not a test."""

from __future__ import annotations

import subprocess
from pathlib import Path

_SOURCE = """
#include <stdlib.h>
static long room = 1L << 62, calls;
static long sizes[1 << 16]; static void *places[1 << 16];
int cudaMalloc(void **out, size_t size) {
    if ((long)size > room) return 2;
    room -= size; *out = aligned_alloc(512, size);
    places[calls] = *out; sizes[calls] = size; calls++; return 0;
}
int cudaFree(void *p) {
    for (long i = 0; i < calls; i++) if (places[i] == p) { room += sizes[i]; places[i] = 0; }
    free(p); return 0;
}
int cudaGetDevice(int *d) { *d = 0; return 0; }
int cudaSetDevice(int d) { return d; }
int cudaGetLastError(void) { return 0; }
void test_room(long bytes) { room = bytes; }
long test_calls(void) { return calls; }
"""


def compile_runtime(folder: Path) -> Path:
    """With the real compiler. `test_room(bytes)` sets how much is left, `test_calls()` counts the allocations."""
    source, library = folder / "runtime.c", folder / "libcudart.so"
    source.write_text(_SOURCE)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return library
