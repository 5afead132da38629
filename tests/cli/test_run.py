"""`memgraph run`: a script behaves as under python, on a CUDA machine that is not there."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from memgraph.cli.main import main
from tests import ROOT

TRAIN = """
    import sys
    import torch
    from torch import nn

    print(__name__, sys.argv, __file__.rpartition("/")[2])
    model = nn.Linear(64, 64).to("cuda")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(int(sys.argv[1]) if len(sys.argv) > 1 else 1):
        model(torch.randn(4, 64, device="cuda")).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        print("step", step + 1)
    print(torch.cuda.get_device_name(), torch.cuda.max_memory_allocated() > 0)
"""


class Result(NamedTuple):
    code: int
    out: str
    err: str


Ours = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a training script in it."""
    (tmp_path / "train.py").write_text(textwrap.dedent(TRAIN))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ours(capfd: pytest.CaptureFixture[str]) -> Iterator[Ours]:
    """`memgraph run` in this process."""
    modules = set(sys.modules)

    def invoke(*arguments: str, options: tuple[str, ...] = ("--format", "none")) -> Result:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["run", "--gpu", "t4", *options, *arguments])
        return Result(int(end.value.code or 0), *capfd.readouterr())

    yield invoke
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in ("pack", "helper", "sizes"):
            del sys.modules[name]


def pythons(*arguments: str) -> Result:
    """The same under python."""
    result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    return Result(result.returncode, result.stdout, result.stderr)


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))


def test_a_script_sees_its_arguments_and_the_card(folder: Path, ours: Ours) -> None:
    result = ours("train.py", "2", "--flag")
    assert result.code == 0, result.err
    assert result.out.splitlines() == [
        "__main__ ['train.py', '2', '--flag'] train.py", "step 1", "step 2", "NVIDIA Tesla T4 True",
    ]  # fmt: skip


def test_steps_end_it(folder: Path, ours: Ours) -> None:
    result = ours("train.py", "1000", options=("--steps", "2", "--format", "json"))
    assert result.code == 0, result.err
    assert "step 2" not in result.out  # the second step has just been taken
    report = json.loads(result.out[result.out.index("{") :])
    assert report["fits"] is True and report["unknown_ops"] == []


def test_a_package_runs_as_a_module_with_relative_imports(folder: Path, ours: Ours) -> None:
    write(folder, "pack/__init__.py", "")
    write(folder, "pack/sizes.py", "WIDTH = 3")
    write(folder, "pack/__main__.py", "print('main of', __package__)")
    write(folder, "pack/train.py", """
        import sys
        from .sizes import WIDTH
        from . import sizes
        print(__name__, __package__, WIDTH, sizes.__name__, sys.argv[1:])
    """)  # fmt: skip
    for arguments in (("-m", "pack.train", "a", "-b"), ("-m", "pack")):
        mine, theirs = ours(*arguments), pythons(*arguments)
        assert (mine.code, mine.out) == (theirs.code, theirs.out), mine.err


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("import sys; print('out'); sys.exit()", 0),
        ("import sys; sys.exit(7)", 7),
        ("import sys; sys.exit('what is wrong')", 1),
        ("raise SystemExit", 0),
        ("if __name__ == '__main__': print('main')", 0),
        ("from helper import VALUE; print(VALUE)", 0),
        ("import __main__; x = 5; print(__main__.x)", 0),
        ("import pickle\\nclass A: pass\\nprint(type(pickle.loads(pickle.dumps(A()))).__name__)", 0),
    ],
)
def test_it_ends_as_under_python(folder: Path, ours: Ours, body: str, code: int) -> None:
    write(folder, "helper.py", "VALUE = 3")
    (folder / "script.py").write_text(body.replace("\\n", "\n"))
    mine, theirs = ours("script.py"), pythons("script.py")
    assert (mine.code, mine.out) == (theirs.code, theirs.out) and mine.code == code, mine.err
    assert theirs.err.strip() in mine.err


def test_an_exception_shows_its_traceback(folder: Path, ours: Ours) -> None:
    write(folder, "script.py", "def f():\n    raise ValueError('deep')\nf()\n")
    result = ours("script.py")
    assert result.code == 1
    assert 'script.py", line 2, in f' in result.err
    assert result.err.splitlines()[-1] == "memgraph: the script failed: ValueError: deep"


def test_a_script_or_module_that_is_not_there(folder: Path, ours: Ours) -> None:
    result = ours("nowhere.py")
    assert (result.code, result.err) == (2, "memgraph: there is no script nowhere.py\n")
    result = ours("-m", "nowhere_at_all")
    assert result.code != 0 and "nowhere_at_all" in result.err


def test_out_of_memory_is_raised_where_the_card_would_and_can_be_caught(folder: Path, ours: Ours) -> None:
    """A T4 has 14.58 GiB, of which 14.42 are PyTorch's: 8 GiB fit, 16 do not."""
    write(folder, "script.py", """
        import torch
        for gib in (8, 16, 4):
            try:
                x = torch.empty(gib * 2**30, dtype=torch.uint8, device="cuda")
                print(gib, "fits")
                del x
            except torch.cuda.OutOfMemoryError as error:
                print(gib, str(error).split(". ")[:2])
    """)  # fmt: skip
    result = ours("script.py")
    assert result.code == 0, result.err
    first, second, third = result.out.splitlines()
    assert (first, third) == ("8 fits", "4 fits")
    assert second.startswith("16 ['CUDA out of memory', 'Tried to allocate 16.00 GiB")


def test_a_measurement_of_batch_sizes_prints_its_table_to_the_end(ours: Ours) -> None:
    script = ROOT / "examples" / "measure_vram.py"
    result = ours(str(script))
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert "T4" in lines[0] and "batch   1:" in lines[1] and "out of memory" in lines[-1]


def test_an_out_of_memory_ends_in_the_users_own_line(folder: Path, ours: Ours) -> None:
    """What runs the script and what stands for the card are no frames of it; the report says what to try."""
    write(
        folder,
        "big.py",
        """
        import torch
        def fill():
            return torch.nn.functional.relu(torch.zeros(2**33, device="cuda"))
        fill()
        """,
    )
    result = ours("big.py", options=())
    trace = result.err.partition("Traceback")[2]
    assert [line.strip() for line in trace.splitlines() if line.strip().startswith("File")] == [
        'File "big.py", line 5, in <module>',
        'File "big.py", line 4, in fill',
    ]
    assert "memgraph/" not in trace.partition("OutOfMemoryError")[0]
    assert "32.00 GiB were asked for by zeros" in result.err
    assert "\nnext: memgraph advise --gpu t4 big.py" in result.err


def test_an_error_of_the_script_keeps_its_cause(folder: Path, ours: Ours) -> None:
    write(
        folder,
        "wrong.py",
        """
        try:
            {}["a"]
        except KeyError as error:
            raise ValueError("no a") from error
        """,
    )
    err = ours("wrong.py").err
    assert "KeyError: 'a'" in err and "direct cause" in err and "ValueError: no a" in err
    assert "memgraph/" not in err and "runpy" not in err


def test_the_last_line_says_where_the_option_stands(folder: Path, ours: Ours) -> None:
    said = "\nnext: add -o run.memgraph before train.py, and draw it:\n  memgraph timeline run.memgraph -o run.html\n"
    assert ours("train.py", options=()).err.endswith(said)
    write(folder, "idle.py", "print(1)")
    assert "Nothing was allocated." in (told := ours("idle.py", options=()).err) and "next:" not in told


def test_an_option_that_went_to_the_script_is_named(folder: Path, ours: Ours) -> None:
    write(folder, "strict.py", "import argparse\nargparse.ArgumentParser().parse_args()")
    result = ours("strict.py", "-o", "x.memgraph", options=())
    assert result.code == 2 and "next:" not in result.err
    assert result.err.endswith("\n-o went to strict.py: what is memgraph's stands before the script\n")
    assert "went to" not in ours("strict.py", "--depth", "3", options=()).err
