"""Where quantisers sit, for each runtime: `python -m benchmarks.placement --data-root DIR`.

One network is quantised to 8 bits under each placement (balanced, min-max ranges, nearest rounding, biases corrected;
no reconstruction and no layer left in float on purpose), and each result is run by ONNX Runtime with its own widths and
padded to multiples of 4, and by OpenVINO compiled for one shape or any, with the rest in fp32 or bf16.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import command
from benchmarks.arms import Arm, Network, Prepared, claim, finished
from benchmarks.common import write_results
from benchmarks.main_job_arms import BASELINE
from benchmarks.session import Timing, timed
from benchmarks.tables import circumstances, rows_of, table_of
from bitwright.runs import stages
from bitwright.runs.built import PLAN
from bitwright.runs.folder import RunFolder
from bitwright.runs.job import Job
from bitwright.runs.request import CompressRequest
from compress.compressed import CompressedModel
from compress.padding import pad_channels
from compress.plan import Placement, Plan
from deploy.audit import audit
from deploy.engine import FloatPrecision, Runtime
from deploy.engines import build_engine, load_engine
from deploy.onnx_export import export_quantized

MULTIPLE = 4


@dataclass(frozen=True)
class Variant:
    """One way to run a quantised network."""

    name: str
    runtime: Runtime
    precision: FloatPrecision = FloatPrecision.FP32
    padded: bool = False
    static: bool = False


VARIANTS = (
    Variant("ort", Runtime.ONNXRUNTIME),
    Variant("ort padded", Runtime.ONNXRUNTIME, padded=True),
    Variant("openvino dynamic f32", Runtime.OPENVINO),
    Variant("openvino dynamic bf16", Runtime.OPENVINO, FloatPrecision.BF16),
    Variant("openvino static f32", Runtime.OPENVINO, static=True),
    Variant("openvino static bf16", Runtime.OPENVINO, FloatPrecision.BF16, static=True),
)


def request_of(given: argparse.Namespace, network: Network, placement: Placement) -> CompressRequest:
    """The job that quantises under a placement."""
    return CompressRequest(
        checkpoint=network.checkpoint,
        device=given.device,
        data=network.train,
        out=network.work / "quantized" / placement.value,
        runtime=Runtime.OPENVINO.value,
        placement=placement.value,
        reconstruct=False,
        calibration_count=given.crops,
        calibration_size=given.crop_side,
        seed=given.seed,
    )


def _exported(request: CompressRequest, network: Network, padded: bool) -> Path:
    """The ONNX file of a placement, with its plan beside it; made by the first variant that needs it."""
    assert request.placement is not None
    folder = network.work / "exported" / (request.placement + ("-padded" if padded else ""))
    path = folder / "model.onnx"
    if path.is_file():
        return path
    with RunFolder.open(request, resume=True) as run:
        job = Job.open(request, run)
        if not run.stage_done("nearest"):
            stages.nearest(job)
        model = CompressedModel.load(run.path / stages.NEAREST, job.graph)
    model.plan.save(folder / PLAN)
    export_quantized(pad_channels(model, MULTIPLE)[0] if padded else model, job.example, path)
    return path


def _quantized(request: CompressRequest, folder: Path, variant: Variant, timing: Timing, network: Network) -> Prepared:
    """The engine of a variant."""
    started = time.monotonic()
    path = _exported(request, network, variant.padded)
    build_engine(
        path,
        folder,
        runtime=variant.runtime,
        profile=request.device,
        float_precision=variant.precision,
        input_shape=timing.input_shape(network) if variant.static else None,
    )
    result = audit(load_engine(folder, 1), path, Plan.load(path.with_name(PLAN)))
    layers = (result.executed.get("int8", 0), len(result.layers))
    return Prepared(folder, time.monotonic() - started, layers=layers, details={"executed": {**result.executed}})


def _float(request: CompressRequest, folder: Path) -> Prepared:
    started = time.monotonic()
    with RunFolder.open(request, resume=True) as run:
        job = Job.open(request, run)
        if not run.stage_done("float"):
            stages.float_baseline(job)
        build_engine(job.float_onnx, folder, runtime=Runtime.ONNXRUNTIME, profile=request.device)
    return Prepared(folder, time.monotonic() - started)


def arms_of(given: argparse.Namespace, network: Network, timing: Timing) -> list[Arm]:
    """The baseline, then every placement with every variant."""
    arms = [Arm(BASELINE, partial(_float, request_of(given, network, Placement.INPUTS)))]
    for placement in Placement:
        request = request_of(given, network, placement)
        for variant in VARIANTS:

            def prepare(folder: Path, request: CompressRequest = request, variant: Variant = variant) -> Prepared:
                return _quantized(request, folder, variant, timing, network)

            arms.append(Arm(f"{placement.value}: {variant.name}", prepare))
    return arms


def benchmark(given: argparse.Namespace) -> str:
    """Run the benchmark, write its results and return the text of its table."""
    timing = command.timing_of(given)
    network = command.network_of(given, given.network)
    decisive = ("device", "crops", "crop_side", "side", "images", "seed")
    claim(network, {name: getattr(given, name) for name in decisive})
    records = [finished(network, arm) for arm in arms_of(given, network, timing)]
    times = timed(network, records, timing)
    text = f"## {network.name}\n\n{table_of(records, times, BASELINE, preparation=False)}\n\n{circumstances(times)}"
    results = {
        "baseline": BASELINE,
        "seed": given.seed,
        "network": network.name,
        "checkpoint_sha256": network.loaded.sha256,
        "rows": rows_of(records, times, BASELINE),
        "arms": [record.model_dump(mode="json") for record in records],
        "latency": times.model_dump(mode="json"),
    }
    write_results(given.out, "placement", results, text, command.hidden(given))
    return text


def main() -> int:
    """Parse the command line, run and print."""
    parser = command.parser("Compare placements of quantisers in each runtime.", "benchmarks/results/placement")
    parser.add_argument("--network", default="rfdn_x4", help="stem of a checkpoint")
    given = parser.parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
