"""Matrix products of torch on a GPU, dense and 2:4, in each precision that it has one in; and their errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.nm_pattern import Sparsity
from compress.sparsity import LayerKind, WeightLayout, magnitude, nm_mask

FP8 = torch.float8_e4m3fn


@dataclass(frozen=True)
class Product:
    """A product that can be run. `run`: of an input [rows, inputs]; `transposed`: its result is [outputs, rows]."""

    run: Callable[[Tensor], Tensor]
    weight: Tensor
    inputs: list[Tensor]
    transposed: bool = False

    def error(self) -> float:
        """Relative error in the Frobenius norm; on integers 0.0, or 1.0 where one element differs."""
        x = self.inputs[0]
        found = self.run(x).double()
        found = found.t() if self.transposed else found
        expected = x.double() @ self.weight.double().t()
        if x.dtype is torch.int8:
            return float(not torch.equal(found, expected))
        return float((found - expected).norm() / expected.norm())


def two_of_four(weight: Tensor) -> Tensor:
    """The weight with the two largest of every four inputs, by the masks that bitwright prunes with."""
    return weight * nm_mask(magnitude(weight), Sparsity.parse("2:4"), WeightLayout(LayerKind.LINEAR))


def dense_float(weight: Tensor, xs: list[Tensor], kind: torch.dtype) -> Product:
    """torch's own product."""
    w = weight.to(kind)
    return Product(lambda x: torch.nn.functional.linear(x, w), w, [x.to(kind) for x in xs])


def dense_int8(weight: Tensor, xs: list[Tensor]) -> Product:
    """`_int_mm`: int8 operands, int32 result."""
    w = _integers(weight)
    return Product(lambda x: torch._int_mm(x, w.t()), w, [_integers(x) for x in xs])


def dense_fp8(weight: Tensor, xs: list[Tensor]) -> Product:
    """`_scaled_mm` with scales of one."""
    w, one = _fp8(weight), torch.ones((), device=weight.device)
    return Product(
        lambda x: torch._scaled_mm(x, w.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16), w,
        [_fp8(x) for x in xs],
    )  # fmt: skip


def sparse_float(weight: Tensor, xs: list[Tensor], kind: torch.dtype) -> Product:
    """`to_sparse_semi_structured`, as a layer's weight."""
    w = two_of_four(weight).to(kind)
    packed = torch.sparse.to_sparse_semi_structured(w)
    return Product(lambda x: torch.nn.functional.linear(x, packed), w, [x.to(kind) for x in xs])


def sparse_narrow(weight: Tensor, xs: list[Tensor], kind: torch.dtype) -> Product:
    """cuSPARSELt's product of a packed weight in int8 or fp8 with the transposed input."""
    narrow, made = (_integers, torch.int32) if kind is torch.int8 else (_fp8, torch.bfloat16)
    w = narrow(two_of_four(weight))
    packed = torch._cslt_compress(w)
    return Product(
        lambda x: torch._cslt_sparse_mm(packed, x.t(), out_dtype=made), w, [narrow(x) for x in xs], transposed=True
    )


Maker = Callable[[Tensor, list[Tensor]], Product]
DENSE: dict[str, Maker] = {
    "fp16": lambda w, xs: dense_float(w, xs, torch.float16),
    "bf16": lambda w, xs: dense_float(w, xs, torch.bfloat16),
    "int8": dense_int8,
    "fp8": dense_fp8,
}
SPARSE: dict[str, Maker] = {
    "2:4 fp16": lambda w, xs: sparse_float(w, xs, torch.float16),
    "2:4 bf16": lambda w, xs: sparse_float(w, xs, torch.bfloat16),
    "2:4 int8": lambda w, xs: sparse_narrow(w, xs, torch.int8),
    "2:4 fp8": lambda w, xs: sparse_narrow(w, xs, FP8),
}


def _integers(x: Tensor) -> Tensor:
    return (x / x.abs().max() * 127).round().to(torch.int8)


def _fp8(x: Tensor) -> Tensor:
    return (x / x.abs().max() * torch.finfo(FP8).max).to(FP8)
