"""Workspaces of cuBLAS and cuBLASLt: sizes as measured on an H200, and who goes through which library."""

from __future__ import annotations

from typing import Any

import pytest

from memgraph.gpu.call import Call, TensorMeta
from memgraph.gpu.cublas import (
    MATRIX_OPS,
    cublas_workspace_bytes,
    cublaslt_workspace_bytes,
    uses_cublaslt,
    workspaces,
)
from tests.gpu.workspace_calls import new, strided

HOPPER, AMPERE = (9, 0), (8, 6)
ROWS, WEIGHT, BIAS = new(4096, 576), new(576, 1536), new(1536)


@pytest.fixture(autouse=True)
def _default_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.delenv("CUBLASLT_WORKSPACE_SIZE", raising=False)


def product(name: str, *args: Any, **kwargs: Any) -> Call:
    return Call(name, "default", args, kwargs, (new(4096, 1536),))


def test_a_handle_has_32_mib_on_hopper_and_a_good_8_mib_elsewhere() -> None:
    assert cublas_workspace_bytes(HOPPER) == 4096 * 8 * 1024 == 33_554_432
    assert cublas_workspace_bytes((10, 0)) == 33_554_432
    for capability in ((7, 5), (8, 0), AMPERE, (8, 9), (12, 0)):
        assert cublas_workspace_bytes(capability) == (4096 * 2 + 16 * 8) * 1024 == 8_519_680


@pytest.mark.parametrize(
    ("text", "size"), [(":4096:8", 33_554_432), (":16:8", 131_072), (":4096:2:16:8", 8_519_680), (":0:0", 0)]
)
def test_the_workspace_is_a_setting(monkeypatch: pytest.MonkeyPatch, text: str, size: int) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", text)
    assert cublas_workspace_bytes(HOPPER) == cublas_workspace_bytes(AMPERE) == size
    assert [name for name, _ in workspaces(product("mm", ROWS, WEIGHT), HOPPER, (2, 11))] == ["cublas"] * (size > 0)


def test_cublaslt_has_1_mib_or_what_is_set_in_kib(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cublaslt_workspace_bytes(HOPPER) == 1_048_576
    monkeypatch.setenv("CUBLASLT_WORKSPACE_SIZE", "4096")
    assert cublaslt_workspace_bytes(HOPPER) == 4 * 2**20


def test_a_product_needs_cublas_and_one_with_a_bias_both_in_this_order() -> None:
    assert workspaces(product("mm", ROWS, WEIGHT), HOPPER, (2, 11)) == [("cublas", 33_554_432)]
    assert workspaces(product("addmm", BIAS, ROWS, WEIGHT), HOPPER, (2, 11)) == [
        ("cublas", 33_554_432),
        ("cublaslt", 1_048_576),
    ]


@pytest.mark.parametrize(
    ("args", "kwargs", "uses"),
    [
        ((BIAS, ROWS, WEIGHT), {}, True),
        ((BIAS, ROWS, WEIGHT), {"beta": 1, "alpha": 1.0}, True),
        ((BIAS, ROWS, WEIGHT), {"alpha": 2}, False),
        ((BIAS, ROWS, WEIGHT), {"beta": 0}, False),
        ((new(4096, 1536), ROWS, WEIGHT), {}, False),  # a matrix is no epilogue
        ((new(1), ROWS, WEIGHT), {}, False),  # nor is a number that is spread
        ((strided((1536,), (2,)), ROWS, WEIGHT), {}, False),
        ((new(1), ROWS, new(576, 1)), {}, False),  # one column
        ((BIAS, new(4096, 1), new(1, 1536)), {}, False),  # one row
    ],
)
def test_who_goes_through_cublaslt(args: tuple[TensorMeta, ...], kwargs: dict[str, Any], uses: bool) -> None:
    assert uses_cublaslt(product("addmm", *args, **kwargs)) is uses
    assert not uses_cublaslt(product("baddbmm", *args, **kwargs))


def test_products_of_all_kinds_are_known() -> None:
    assert {"mm", "bmm", "addmm", "baddbmm", "mv", "dot"} <= MATRIX_OPS


def test_a_scaled_product_has_cublaslt_with_one_scale_and_cutlass_with_one_for_each_row() -> None:
    left, right = new(64, 32, dtype="float8_e4m3fn"), new(32, 48, dtype="float8_e4m3fn")
    whole = workspaces(product("_scaled_mm", left, right, new(), new()), HOPPER, (2, 11))
    assert whole == [("cublas", 33_554_432), ("cublaslt", 1_048_576)]
    assert workspaces(product("_scaled_mm", left, right, new(64, 1), new(1, 48)), HOPPER, (2, 11)) == []
