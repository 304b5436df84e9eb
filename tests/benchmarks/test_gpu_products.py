"""The comparison of a GPU's matrix products: what needs no GPU of it, and on a GPU that it tells of every product."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_products
from benchmarks.gpu_kernels import DENSE, SPARSE, two_of_four
from benchmarks.gpu_products import SHAPES, Shape, apart, ratio, tables
from bitwright.foundation.errors import DeviceError
from tests.marks import needs_gpu

KILLER = "2:4 int8"


def _fake(pipe: Connection, shape: Shape, rounds: int, skipped: Mapping[str, str]) -> None:
    """Figures that nobody measured, from a process that one of the products ends."""
    products = {}
    for number, name in enumerate(DENSE | SPARSE, 1):
        if name in skipped:
            products[name] = {"refused": skipped[name]}
            continue
        pipe.send(name)
        if name == KILLER:
            os._exit(3)
        products[name] = {"error": 1e-3, "ms": [number * 0.1] * rounds}
    pipe.send({"shape": vars(shape), "products": products})


def _silent(pipe: Connection, shape: Shape, rounds: int, skipped: Mapping[str, str]) -> None:
    os._exit(3)


def test_a_product_that_ends_the_process_is_left_out_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_products, "_work", _fake)
    row = apart(SHAPES[0], 2)
    assert row["products"][KILLER] == {"refused": "it ends the process"}
    assert ratio(row, KILLER, "fp16") is None
    assert ratio(row, "bf16", "fp16") == pytest.approx((0.5, 0.5, 0.5))
    text = tables([row])
    assert f"- {KILLER}, {SHAPES[0]}: it ends the process" in text
    assert "0.50 [0.50, 0.50]" in text


def test_a_process_that_does_not_begin_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_products, "_work", _silent)
    with pytest.raises(DeviceError, match="ended while it was at its start"):
        apart(SHAPES[0], 2)


def test_dense_products_are_right_and_a_wrong_one_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, xs = torch.randn(64, 48, generator=generator), [torch.randn(32, 48, generator=generator)]
    errors = {name: maker(weight, xs).error() for name, maker in DENSE.items()}
    assert errors["int8"] == 0
    assert 0 < errors["fp16"] < 1e-3
    assert max(errors["bf16"], errors["fp8"]) < 5e-3
    product = DENSE["int8"](weight, xs)
    assert replace(product, weight=product.weight.clone().index_fill(0, torch.tensor(3), 1)).error() == 1


def test_two_of_four_inputs_are_kept() -> None:
    weight = torch.randn(16, 32, generator=torch.Generator().manual_seed(1))
    groups = two_of_four(weight).reshape(16, 8, 4)
    assert bool((groups.count_nonzero(2) == 2).all())
    kept = groups.abs().sum(2)
    assert torch.equal(kept, weight.reshape(16, 8, 4).abs().topk(2, 2).values.sum(2))


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
                                  tmp_path: Path) -> None:  # fmt: skip
    monkeypatch.setattr("sys.argv", ["gpu_products", "--out", str(tmp_path)])
    assert gpu_products.main() == 5
    assert capsys.readouterr().err == ("error: this benchmark is of kernels of a CUDA GPU, and torch finds none here\n")
    assert not list(tmp_path.iterdir())


@needs_gpu
def test_each_product_is_measured_or_refused() -> None:
    row = apart(Shape("small", 64, 64, 64), 2)
    assert set(row["products"]) == set(DENSE | SPARSE)
    measured = {name: found for name, found in row["products"].items() if "refused" not in found}
    assert set(measured) >= {"fp16", "bf16"}
    for name, found in measured.items():
        assert len(found["ms"]) == 2, name
        assert min(found["ms"]) > 0, name
        assert found["error"] < 5e-3, name
    assert all(found["refused"] for name, found in row["products"].items() if name not in measured)
