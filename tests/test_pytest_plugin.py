"""A limit on GPU memory as a mark on a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest, torch

@pytest.mark.gpu_memory(limit="64MiB", gpu="t4")
def test_small():
    assert torch.cuda.get_device_name().endswith("T4")
    torch.zeros(2**20, device="cuda")

@pytest.mark.gpu_memory("64MiB")
def test_large():
    a = torch.zeros(2**24, device="cuda")  # 64 MiB
    b = a + 1                              # and as many

@pytest.mark.gpu_memory("1GiB", steady=True)
def test_growing():
    net = torch.nn.Linear(512, 512).cuda()
    opt = torch.optim.SGD(net.parameters(), 0.1)
    outs = []
    for _ in range(5):
        out = net(torch.zeros(512, 512, device="cuda"))
        out.mean().backward(); opt.step(); opt.zero_grad()
        outs.append(out.detach())

@pytest.mark.gpu_memory("much")
def test_wrong(): pass

def test_unmarked():
    assert not torch.cuda.is_available()
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest says of these."""
    file = tmp_path_factory.mktemp("marked") / "test_marked.py"
    file.write_text(TESTS)
    plugin = ("-p", "no:memgraph", "-p", "memgraph.pytest_plugin", "-p", "no:cacheprovider", "--strict-markers")
    command = [sys.executable, "-m", "pytest", *plugin, "-rA", "-q", "-c", "/dev/null", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(file).parent).stdout


@pytest.mark.parametrize("name", ["small", "unmarked"])
def test_what_stays_below_its_limit_passes(report: str, name: str) -> None:
    assert f"test_{name}\n" in report.partition("PASSED")[2].replace("PASSED", "")


def test_what_needs_more_fails_with_its_largest_holders(report: str) -> None:
    """Two segments of 64 MiB."""
    assert "128.0 MiB of GPU memory, 64.00 MiB more than the limit of 64.00 MiB" in report
    assert "  64.00 MiB  1 x output of zeros, " in report
    assert "  64.00 MiB  1 x output of add, " in report


def test_what_grows_fails_where_it_has_to_be_steady(report: str) -> None:
    assert "growing: Grows 1.000 MiB a step" in report
    assert "the list `outs`" in report


def test_a_limit_that_is_none_is_said(report: str) -> None:
    assert "@pytest.mark.gpu_memory: 'much' is not a size" in report
