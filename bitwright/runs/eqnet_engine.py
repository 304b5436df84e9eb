"""Files and engine of one member of a supernet for one device, timed beside the float network where it runs here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, fx

from bitwright.foundation.files import write_text
from bitwright.foundation.progress import note
from bitwright.runs.built import ENGINE, MODEL, ONNX, PLAN, Built, build_audited
from bitwright.runs.eqnet_request import EqnetRequest
from bitwright.runs.folder import RunFolder
from bitwright.runs.job import BALANCED, Job
from bitwright.runs.proof import LATENCY, time_engines
from bitwright.runs.request import CompressRequest
from bitwright.runs.stages import float_baseline
from compress.compressed import CompressedModel
from compress.graph import save_graph
from deploy.engine import Engine, Runtime
from deploy.engines import load_engine
from deploy.latency import ComparisonResult
from deploy.onnx_export import export_for
from hw_profiles import RuntimeEngine, architecture_of, installed_runtimes
from search.eqnet.devices import DeviceChoice
from workloads.workload import LoadedModel

FLOAT_BIASES = (RuntimeEngine.TENSORRT, RuntimeEngine.TENSORRT_RTX)
"""Runtimes that want the biases of integer layers in float."""


@dataclass(frozen=True)
class Network:
    """What is compressed, at the size that is traced and timed. `original`: the network as it was given."""

    request: EqnetRequest
    loaded: LoadedModel
    original: fx.GraphModule
    example: Tensor


@dataclass(frozen=True)
class Deployed:
    """The network as it is deployed. `engine`: where it runs here; `timed`: where a time says something."""

    model: CompressedModel
    built: Built | None = None
    engine: Engine | None = None
    why_not_here: str | None = None
    timed: ComparisonResult | None = None


def deploy(network: Network, choice: DeviceChoice, model: CompressedModel, folder: Path) -> Deployed:
    """The engine and its audit where it can be built; else plan, integers and the exported file, checked as a file."""
    if not _builds_here(choice):
        model.plan.save(folder / PLAN)
        model.save(folder / MODEL)
        floats = {r.value for r in FLOAT_BIASES}
        export_for(choice.runtime, model, network.example, folder / ONNX, quantize_bias=choice.runtime not in floats)
        return Deployed(model)
    request, runtime = network.request, Runtime(choice.runtime)
    asked = CompressRequest.model_validate(
        {
            "checkpoint": request.checkpoint, "device": choice.profile.id, "data": request.data, "out": folder,
            "runtime": choice.runtime, "model": request.model, "scale": request.scale, "seed": request.seed,
        }
    )  # fmt: skip
    with RunFolder.open(asked) as run:
        save_graph(model.graph, run.path / BALANCED)
        job = Job(
            asked, run, network.loaded, choice.profile, runtime, network.original, model.graph, model.graph,
            network.example,
        )  # fmt: skip
        built = build_audited(job, model, folder)
        run.finish_stage("engine", [PLAN, MODEL, ONNX], {"without_kernel": list(built.without_kernel)})
        engine = load_engine(folder / ENGINE, 1, device=choice.profile)
        elsewhere = engine.why_not_here()
        if elsewhere is not None:
            return Deployed(built.model, built, None, elsewhere)
        if runtime.why_not_timed is not None:
            note(f"{choice.profile.id}: not timed, {runtime.why_not_timed}")
            return Deployed(built.model, built, engine)
        float_baseline(job)
        x = network.example.numpy()
        timed = time_engines(folder, x, threads=1, seconds=request.measure_seconds, seed=request.seed)
        write_text(folder / LATENCY, timed.model_dump_json() + "\n")
    return Deployed(built.model, built, engine, None, timed)


def _builds_here(choice: DeviceChoice) -> bool:
    """Whether the runtime is installed, and builds for this processor or for any."""
    if choice.runtime not in {r.value for r in Runtime} or not installed_runtimes().get(choice.runtime):
        return False
    return Runtime(choice.runtime).builds_anywhere or choice.profile.arch.isa == architecture_of()
