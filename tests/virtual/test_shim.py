"""The shim is built once for each torch and cached; whatever goes wrong is one line that says what to do."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

import memgraph
from memgraph.errors import ShimError
from memgraph.virtual import device, shim

Compile = Callable[[str], None]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder; what this process has loaded already does not count."""
    monkeypatch.setenv("MEMGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shim, "load", shim.load.__wrapped__)
    return tmp_path / "cache"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that are run."""
    seen: list[list[str]] = []
    real = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        seen.append(command)
        return real(command, **options)

    monkeypatch.setattr(subprocess, "run", run)
    return seen


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compile:
    """`compiler(text)`: the C++ compiler is this shell script."""

    def install(text: str) -> None:
        path = tmp_path / "c++"
        path.write_text(text)
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))

    return install


FAKE = '#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\ncp "$MEMGRAPH_TEST_LIBRARY" "$2"\n'
"""Does what a compiler would, quickly: it copies a library that was built before."""


@pytest.fixture
def quick(compiler: Compile, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A compiler that takes no time."""
    built = shim.library_path()
    shim.load()
    monkeypatch.setenv("MEMGRAPH_TEST_LIBRARY", str(built))
    compiler(FAKE)
    request.getfixturevalue("cache")


def refusal() -> str:
    """What `load` says when it cannot."""
    with pytest.raises(ShimError) as error:
        shim.load()
    text = str(error.value)
    assert text.count("\n") == 0
    assert error.value.exit_code == 1
    return text


@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="there is no C++ compiler")
def test_it_compiles_with_the_real_compiler_and_answers(cache: Path, runs: list[list[str]]) -> None:
    library = shim.load()
    assert len(runs) == 1
    assert library.memgraph_uninstall() == -1  # nothing was installed
    (built,) = cache.iterdir()
    assert built == shim.library_path()


@pytest.mark.usefixtures("quick")
def test_it_is_built_once(cache: Path, runs: list[list[str]]) -> None:
    shim.load()
    before = [(path.name, path.stat().st_mtime_ns) for path in cache.iterdir()]
    shim.load()
    assert [(path.name, path.stat().st_mtime_ns) for path in cache.iterdir()] == before
    assert len(before) == len(runs) == 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("changed", ["version", "place", "source"])
def test_another_torch_or_another_source_has_a_library_of_its_own(
    changed: str, cache: Path, runs: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim.load()
    if changed == "version":
        monkeypatch.setattr(torch, "__version__", "2.99.0+cpu")
    elif changed == "place":
        monkeypatch.setattr(torch, "__file__", str(tmp_path / "torch" / "__init__.py"))
    else:
        source = tmp_path / "device.cpp"
        source.write_text(shim.SOURCE.read_text() + "\n")
        monkeypatch.setattr(shim, "SOURCE", source)
    shim.load()
    assert len(runs) == len(list(cache.iterdir())) == 2
    if changed == "version":
        assert len(list(cache.glob("device-2.99.0+cpu-*.so"))) == 1


def test_it_is_loaded_once_in_a_process() -> None:
    assert shim.load() is shim.load()


def test_the_cache_is_where_it_is_asked_to_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEMGRAPH_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert shim.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("MEMGRAPH_CACHE")
    assert shim.cache_folder() == tmp_path / "xdg" / "memgraph"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert shim.cache_folder() == tmp_path / "home" / ".cache" / "memgraph"


# What goes wrong.


@pytest.mark.usefixtures("cache")
def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refusal() == (
        "no C++ compiler found, and the virtual device has to be compiled once: install g++ or set CXX"
    )


def test_a_compiler_that_is_not_there_is_passed_over(
    quick: None, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")  # where `quick` put a c++
    monkeypatch.setenv("CXX", "no-such-compiler")
    shim.load()
    assert len(list(cache.iterdir())) == 1


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo In file included from >&2; echo 'device.cpp:9:10: fatal error: no header' >&2; exit 1",
         "device.cpp:9:10: fatal error: no header"),
        ("echo something else >&2; echo and more >&2; exit 1", "something else"),
        ("exit 3", "the compiler said nothing (exit code 3)"),
        ("kill -9 $$", "the compiler said nothing (exit code -9)"),
    ],
)  # fmt: skip
def test_a_build_that_fails(script: str, reason: str, compiler: Compile) -> None:
    compiler(f"#!/bin/sh\n{script}\n")
    assert refusal() == f"building the virtual device for torch {torch.__version__} failed: {reason}"


def test_a_compiler_that_cannot_be_run_is_not_taken_for_an_unwritable_cache(cache: Path, compiler: Compile) -> None:
    compiler("not a program")
    text = refusal()
    assert text.startswith(f"building the virtual device for torch {torch.__version__} failed: cannot run ")
    assert str(cache) not in text


def test_a_build_that_fails_leaves_nothing_behind(cache: Path, compiler: Compile) -> None:
    compiler('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho half > "$2"\nexit 1\n')
    refusal()
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEMGRAPH_CACHE", str(tmp_path / "file" / "cache"))
    assert refusal() == (
        f"cannot write the cache folder {tmp_path}/file/cache: Not a directory; "
        "set MEMGRAPH_CACHE to one that can be written"
    )
    assert not cache.exists()


def test_a_cache_without_permission(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mkdir(path: Path, **_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert refusal().startswith(f"cannot write the cache folder {cache}: Permission denied; set MEMGRAPH_CACHE")


@pytest.mark.usefixtures("quick")
def test_a_library_that_cannot_be_loaded() -> None:
    path = shim.library_path()
    path.parent.mkdir()
    path.write_text("not a library")
    text = refusal()
    assert text.startswith(f"cannot load {path}: ")
    assert text.endswith("; delete it and try again")


def test_a_failed_load_is_tried_again(cache: Path, compiler: Compile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Mock(_name=name))
    compiler("#!/bin/sh\nexit 1\n")
    refusal()
    compiler('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho whole > "$2"\n')
    assert shim.load()._name == str(shim.library_path())
    assert len(list(cache.iterdir())) == 1


# A real GPU.


def test_it_is_never_loaded_where_a_real_gpu_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        pytest.fail("the shim was loaded beside a real GPU")

    monkeypatch.setattr(shim, "load", load)
    monkeypatch.setattr(device, "has_real_gpu", lambda: True)
    with device.virtual_device():
        pass
    monkeypatch.setattr(device, "has_real_gpu", lambda: False)
    with pytest.raises(pytest.fail.Exception), device.virtual_device():
        pass


def test_whether_a_gpu_is_real_is_what_torch_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for seen in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda seen=seen: seen)
        assert device.has_real_gpu() is seen


def test_the_error_reaches_the_user_as_it_is(cache: Path, compiler: Compile) -> None:
    if torch.cuda.is_available():
        pytest.skip("a real GPU is visible, so the shim is not used")
    compiler("#!/bin/sh\necho 'error: broken' >&2\nexit 1\n")
    with pytest.raises(ShimError, match=r"failed: error: broken$"), memgraph.virtual_gpu("rtx3090"):
        pytest.fail("opened")
    assert not torch.cuda.is_available()
