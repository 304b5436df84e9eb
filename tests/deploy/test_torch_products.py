"""Matrix products in int8 and fp8 as torch has them on GPUs: on this processor, and on a GPU where there is one.

Both kernels run on processors too, so that the network, the compiled package and its audit are real here; the rules
that only the GPU's kernels have are checked beside them, as `ATen/native/cuda/Blas.cpp` of torch states them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from bitwright.foundation.errors import UsageError
from compress.compressed import CompressedModel
from compress.graph import capture, layer_nodes
from compress.placement import place
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import A8, FP8_ACTIVATIONS, FP8_WEIGHTS, W8
from compress.ranges import set_ranges
from compress.statistics import collect
from deploy.audit import Audit, audit, audit_nodes
from deploy.engine import EngineSpec, FloatPrecision, Runtime
from deploy.engines import build_engine, load_engine
from deploy.engines.torch_nodes import executed_nodes
from deploy.onnx_export import export_for
from deploy.torch_aot.compile import compile_network
from deploy.torch_aot.network import OnnxNetwork
from deploy.torch_aot.package import MODEL, Package
from deploy.torch_aot.products import product, product_constants
from deploy.torch_aot.values import FP8, Integers
from hw_profiles import load_profile
from tests.deploy.conftest import SIGNED
from tests.deploy.gpus import device_here, with_gpu
from tests.marks import needs_compiler, needs_gpu

FORMS = {
    "int8": LayerPlan(weight=W8, activation=SIGNED),
    "fp8": LayerPlan(weight=FP8_WEIGHTS, activation=FP8_ACTIVATIONS),
}
TOKENS, WIDTH = 25, 20
"""More rows than 16 in a picture, and channels that are neither eights nor sixteens."""
PATCHES = "patches"


class Tokens(nn.Module):
    """Patches, a feed-forward network and attention over tokens, and a head that sees one row for each picture."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, WIDTH, 4, 4), nn.LayerNorm(WIDTH)
        self.qkv, self.wide = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, 48)
        self.narrow, self.head = nn.Linear(48, WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        split = self.qkv(self.norm(tokens)).reshape(x.shape[0], TOKENS, 3, 1, WIDTH).permute(2, 0, 3, 1, 4)
        tokens = tokens + nn.functional.scaled_dot_product_attention(*split.unbind(0)).squeeze(1)
        tokens = tokens + self.narrow(nn.functional.gelu(self.wide(tokens)))
        head: Tensor = self.head(tokens.mean(1))
        return head


LAYERS = ("qkv", "wide", "narrow", "head")


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.rand(8, 3, 20, 20, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def graph(pictures: Tensor) -> fx.GraphModule:
    torch.manual_seed(0)
    return capture(Tokens(), pictures[:1], one_size=True)


Make = Callable[..., tuple[Path, CompressedModel]]


@pytest.fixture
def make(graph: fx.GraphModule, pictures: Tensor, tmp_path: Path) -> Make:
    """`make(layer, precision="fp32", in_float=(PATCHES,))`: an exported file, and the network that it was made of."""

    def build(
        layer: LayerPlan, precision: str = "fp32", in_float: tuple[str, ...] = (PATCHES,)
    ) -> tuple[Path, CompressedModel]:
        layers = {name: LayerPlan() if name in in_float else layer for name, _ in layer_nodes(graph)}
        plan = Plan(
            architecture="t", device="d", runtime="torch", float_precision=precision, placement=Placement.INPUTS,
            layers=layers,
        )  # fmt: skip
        model = set_ranges(graph, plan, collect(graph, pictures, {site.tensor.name for site in place(graph, plan)}))
        path = tmp_path / f"net{len(list(tmp_path.iterdir()))}.onnx"
        export_for(Runtime.TORCH, model, pictures[:1], path, quantize_bias=False)
        return path, model

    return build


def spread(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference as a share of what the expected values span."""
    return float(np.abs(found - expected).max() / np.ptp(expected))


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Let both kernels take what they take on a GPU alone; the shapes that they were given, rows first."""
    seen: list[tuple[int, ...]] = []
    int_mm, scaled_mm = torch._int_mm, torch._scaled_mm

    def note(a: Tensor, b: Tensor, multiple: int, least: int) -> None:
        assert a.shape[0] >= least
        assert not [size for size in (a.shape[1], *b.shape) if size % multiple]
        assert a.is_contiguous()
        assert b.t().is_contiguous()
        seen.append((*a.shape, b.shape[1]))

    def strict_int_mm(a: Tensor, b: Tensor) -> Tensor:
        assert a.dtype == b.dtype == torch.int8
        note(a, b, 8, 17)
        return int_mm(a, b)

    def strict_scaled_mm(a: Tensor, b: Tensor, *, scale_a: Tensor, scale_b: Tensor, out_dtype: torch.dtype) -> Tensor:
        assert a.dtype == b.dtype == FP8
        assert scale_a.numel() == scale_b.numel() == 1
        assert scale_a.dtype == scale_b.dtype == torch.float32
        note(a, b, 16, 1)
        return scaled_mm(a, b, scale_a=scale_a, scale_b=scale_b, out_dtype=out_dtype)

    monkeypatch.setattr(torch, "_int_mm", strict_int_mm)
    monkeypatch.setattr(torch, "_scaled_mm", strict_scaled_mm)
    return seen


@pytest.mark.parametrize("shape", [(1,), (16,), (17,), (3, 5), (2, 20)])
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 32), (5, 3), (24, 10)])
@pytest.mark.parametrize("kind", [torch.int8, FP8])
def test_operands_are_filled_up_to_what_the_kernels_take(
    shape: tuple[int, ...], inputs: int, outputs: int, kind: torch.dtype, strict: list[tuple[int, ...]]
) -> None:
    def whole(*size: int) -> Tensor:
        # As E4M3 holds them exactly, too.
        return torch.randint(-15, 16, size, generator=generator).to(kind)

    generator = torch.Generator().manual_seed(0)
    w, x, bias = whole(outputs, inputs), whole(*shape, inputs), torch.randn(outputs, generator=generator)
    scale = torch.rand(outputs, generator=generator) + 0.5
    layer = product_constants(Integers(w, scale, torch.zeros(1), 0), bias, torch.float16)
    found = product(x, 0.25, layer)
    expected = nn.functional.linear(x.double(), w.double()) * (scale * 0.25).double() + bias.double()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-5)
    assert len(strict) == 1


@pytest.mark.parametrize("form", FORMS)
def test_the_network_computes_what_the_simulation_computes(
    form: str, make: Make, pictures: Tensor, strict: list[tuple[int, ...]]
) -> None:
    path, model = make(FORMS[form])
    network = OnnxNetwork(path, FloatPrecision.FP32, on_gpu=True).eval()
    assert network.layers == (PATCHES, *LAYERS)
    assert network.quantized == LAYERS
    assert network.fp8 is (form == "fp8")
    with torch.no_grad():
        found, expected = network(pictures).numpy(), model.simulate()(pictures).numpy()
        exact = model.graph(pictures).numpy()
    assert spread(found, expected) < 1e-4 < 2e-3 < spread(exact, expected)
    columns = {"int8": [(24, 64), (24, 48), (48, 24), (24, 16)], "fp8": [(32, 64), (32, 48), (48, 32), (32, 16)]}
    assert [shape[1:] for shape in strict] == columns[form]
    # A head sees one row for each picture; fp8 has no least number of them.
    assert strict[-1][0] == (8 + 9 if form == "int8" else 8)


def exported(network: OnnxNetwork, pictures: Tensor) -> fx.Graph:
    with torch.no_grad():
        sizes = {0: torch.export.Dim.DYNAMIC}
        return torch.export.export(network, (pictures[:2],), dynamic_shapes=(sizes,)).graph


def test_what_is_compiled_has_enough_rows_for_any_batch(make: Make, pictures: Tensor) -> None:
    path, _ = make(FORMS["int8"])
    traced = exported(OnnxNetwork(path, FloatPrecision.FP32, on_gpu=True).eval(), pictures)
    operands = [node.args[0].meta["val"] for node in traced.nodes if node.target is torch.ops.aten._int_mm.default]
    rows = [str(x.shape[0].node.expr) for x in operands]
    (symbol,) = {str(x.shape[0].node.expr.free_symbols.pop()) for x in operands}
    # Tokens are enough by themselves; of the head's rows nothing is known but that there is one.
    assert rows == [f"25*{symbol}"] * 3 + [f"{symbol} + 16"]


def audited(source: str, layers: tuple[str, ...], path: Path, model: CompressedModel) -> Audit:
    spec = EngineSpec(
        runtime=Runtime.TORCH, artefact="net.pt2", float_precision=FloatPrecision(model.plan.float_precision),
        runtime_version=torch.__version__, artefact_sha256="0" * 64, profile="any",
    )  # fmt: skip
    return audit_nodes(executed_nodes(source, layers), spec, path, model.plan)


@needs_compiler
@pytest.mark.engine
@pytest.mark.parametrize("form", FORMS)
def test_the_package_calls_the_kernels_and_the_audit_names_them(
    form: str, make: Make, pictures: Tensor, tmp_path: Path
) -> None:
    path, model = make(FORMS[form], "fp16")
    network = OnnxNetwork(path, FloatPrecision.FP16, on_gpu=True).eval()
    package = tmp_path / "net.pt2"
    package.write_bytes(compile_network(network, FloatPrecision.FP16, device="cpu", name=path.name))
    read = Package.read(package)
    result = audited(read.source, read.described.layers, path, model)
    result.require()
    assert result.executed == {form: 4, "fp16": 1}
    kernels = {layer.layer: layer.kernel for layer in result.layers}
    assert {kernels[name] for name in LAYERS} == {"_int_mm_out" if form == "int8" else "_scaled_mm_out"}
    # As on a GPU, whose wrapper has the same calls under its own name.
    elsewhere = audited(read.source.replace("aoti_torch_cpu_", "aoti_torch_cuda_"), read.described.layers, path, model)
    assert elsewhere.executed == result.executed
    (other,) = {"int8", "fp8"} - {form}
    wrong = model.plan.model_copy(update={"layers": model.plan.layers | {"head": FORMS[other]}})
    lied = audited(read.source, read.described.layers, path, CompressedModel(model.graph, wrong, {}, {}))
    assert [(m.layer, m.planned, m.executed) for m in lied.mismatches] == [("head", other, form)]
    loader = torch._C._aoti.AOTIModelPackageLoader(str(package), MODEL, False, 1, -1)
    with torch.no_grad():
        expected = model.simulate()(pictures).numpy()
    for x, wanted in ((pictures, expected), (pictures[:1], expected[:1])):
        assert np.abs(loader.run([x])[0].numpy() - wanted).max() < 0.02 * np.ptp(expected)


def test_inputs_around_another_zero_have_no_kernel(make: Make, pictures: Tensor) -> None:
    path, model = make(LayerPlan(weight=W8, activation=A8))
    network = OnnxNetwork(path, FloatPrecision.FP32, on_gpu=True).eval()
    assert network.quantized == ()
    with torch.no_grad():
        assert spread(network(pictures).numpy(), model.simulate()(pictures).numpy()) < 1e-4


@needs_compiler
def test_what_has_no_kernel_is_refused_in_one_line(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [make(FORMS["fp8"])[0], *(make(form, in_float=())[0] for form in FORMS.values())]

    def refusal(path: Path, device: str | None, *capability: int) -> str:
        profile = None if device is None else load_profile(device)
        with_gpu(monkeypatch, *capability)
        with pytest.raises(UsageError) as caught:
            build_engine(path, tmp_path / "e", runtime=Runtime.TORCH, profile=str(device), device=profile)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "e").exists()
        return str(caught.value)

    assert refusal(files[0], None) == (
        "torch has fp8 kernels for GPUs only, and net0.onnx has layers in fp8; compress it to int8"
    )
    assert "fp8 needs compute capability 8.9 or higher, and rtx-3060 has 8.6" in refusal(files[0], "rtx-3060", 8, 6)
    for path in files[1:]:
        assert refusal(path, "h100-sxm", 9, 0) == (
            f"torch has no integer convolutions on GPUs, nor in fp8, and {path.name} plans 1 of them so; "
            "choose --precision fp16 or bf16, or another --runtime"
        )


@needs_gpu
@needs_compiler
@pytest.mark.engine
@pytest.mark.parametrize("form", FORMS)
def test_an_engine_on_a_gpu_multiplies_as_planned(form: str, make: Make, pictures: Tensor, tmp_path: Path) -> None:
    if form == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("the GPU here has no fp8")
    path, model = make(FORMS[form], "fp16")
    device = device_here()
    build_engine(
        path, tmp_path / "e", runtime=Runtime.TORCH, profile=device.id, device=device,
        float_precision=FloatPrecision.FP16,
    )  # fmt: skip
    result = audit(load_engine(tmp_path / "e", 1), path, model.plan)
    result.require()
    assert result.executed == {form: 4, "fp16": 1}
    with torch.no_grad():
        expected = model.simulate()(pictures).numpy()
    for graph in (False, True):
        engine = load_engine(tmp_path / "e", 1)
        if graph:
            engine.use_cuda_graph()
        for x, wanted in ((pictures, expected), (pictures[:1], expected[:1])):
            assert np.abs(engine.run(x.numpy()) - wanted).max() < 0.02 * np.ptp(expected)
