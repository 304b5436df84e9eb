"""The arms of the main job: float baselines, NNCF, and `bitwright compress` as a user types it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from benchmarks import command
from benchmarks.arms import Arm, Network, Prepared
from benchmarks.ir_engine import LOADER, save_ir
from benchmarks.nncf_peers import Mode, quantize
from bitwright.foundation.errors import BitwrightError, ConstraintError, VerificationError
from bitwright.foundation.files import write_json
from bitwright.report.schema import Report
from compress.graph import capture
from deploy.engine import FloatPrecision, Runtime
from deploy.engines import build_engine
from deploy.engines.runtime_packages import import_runtime
from deploy.onnx_export import export_float

BASELINE = "onnxruntime float"
PROOF_STAGES = frozenset({"quality", "latency", "report"})
_ACCEPTED = (0, ConstraintError.exit_code, VerificationError.exit_code)


@dataclass(frozen=True)
class Settings:
    """What the arms of one benchmark share."""

    device: str
    drops: tuple[float, ...]
    crops: int
    crop_side: int
    seed: int
    accuracy_control: bool
    accuracy_drop: float
    options: tuple[str, ...]
    input_shape: tuple[int, int, int, int]
    images: int | None

    @staticmethod
    def of(given: argparse.Namespace, network: Network, *options: str) -> Settings:
        """What the command line says, for arms of ours and float baselines; `options` come ahead of --set."""
        return Settings(
            device=given.device, drops=(), crops=given.crops, crop_side=given.crop_side, seed=given.seed,
            accuracy_control=False, accuracy_drop=0.0, options=(*options, *given.set),
            input_shape=command.timing_of(given).input_shape(network), images=given.images,
        )  # fmt: skip

    def decisive(self) -> dict[str, JsonValue]:
        """What an arm that is kept on disk depends on beside its name."""
        return {
            "device": self.device,
            "crops": self.crops,
            "crop_side": self.crop_side,
            "seed": self.seed,
            "accuracy_drop": self.accuracy_drop,
            "options": list(self.options),
            "input_shape": list(self.input_shape),
            "images": self.images,
        }


def arms_of(network: Network, settings: Settings) -> list[Arm]:
    """All arms, the baseline first."""
    modes = [Mode.DEFAULT, Mode.MIXED, *([Mode.ACCURACY_CONTROL] if settings.accuracy_control else [])]
    arms = [
        Arm(BASELINE, partial(onnxruntime_float, network, settings)),
        Arm("openvino bf16", partial(_openvino_float, network, settings)),
    ]
    for mode in modes:
        for precision in (FloatPrecision.FP32, FloatPrecision.BF16):
            name = f"{mode.value}, rest {precision.value}"
            arms.append(Arm(name, partial(_nncf, network, settings, mode, precision)))
    arms += [Arm(f"bitwright {drop:g} dB", partial(bitwright_arm, network, settings, drop)) for drop in settings.drops]
    return arms


def _export(network: Network, folder: Path) -> Path:
    workload = network.loaded.workload
    example = workload.traced_at()
    path = folder / "float.onnx"
    export_float(capture(network.loaded.module, example, one_size=workload.takes_one_size), example, path)
    return path


def onnxruntime_float(network: Network, settings: Settings, folder: Path) -> Prepared:
    """The network as it is, in ONNX Runtime."""
    started = time.monotonic()
    path = _export(network, folder)
    build_engine(path, folder, runtime=Runtime.ONNXRUNTIME, profile=settings.device)
    return Prepared(folder, time.monotonic() - started)


def _openvino_float(network: Network, settings: Settings, folder: Path) -> Prepared:
    started = time.monotonic()
    model = _read(_export(network, folder))
    save_ir(
        model,
        folder,
        precision=FloatPrecision.BF16,
        input_shape=settings.input_shape,
        profile=settings.device,
    )
    return Prepared(folder, time.monotonic() - started, LOADER)


def _read(path: Path) -> Any:
    return import_runtime(Runtime.OPENVINO).Core().read_model(str(path))


def _nncf(network: Network, settings: Settings, mode: Mode, precision: FloatPrecision, folder: Path) -> Prepared:
    """NNCF quantises once for each mode; the arms of a mode differ in what the rest of the network runs in."""
    shared = folder.parent / f"{mode.value.replace(' ', '-')}-model"
    made = shared / "made.json"
    if not made.is_file():
        started = time.monotonic()
        float_model = _read(_export(network, shared))
        crops = network.loaded.workload.calibration(network.train, settings.crops, settings.crop_side, settings.seed)
        model = quantize(network, float_model, crops, mode, max_drop=settings.accuracy_drop, images=network.images)
        save_ir(model, shared, precision=FloatPrecision.FP32, input_shape=settings.input_shape, profile=settings.device)
        write_json(made, {"seconds": time.monotonic() - started})
    seconds = float(json.loads(made.read_bytes())["seconds"])
    save_ir(
        _read(shared / "model.xml"),
        folder,
        precision=precision,
        input_shape=settings.input_shape,
        profile=settings.device,
    )
    details = {"max_drop_db": settings.accuracy_drop} if mode is Mode.ACCURACY_CONTROL else {}
    return Prepared(folder, seconds, LOADER, details={**details})


def compress_command(network: Network, settings: Settings, drop: float, run: Path) -> list[str]:
    """The words behind `python -m bitwright`."""
    words = ["compress", str(network.checkpoint), "--device", settings.device, "--data", str(network.train)]
    words += ["--eval", str(network.test / "Set14"), "--max-drop", f"{drop:g}", "--out", str(run)]
    words += ["--seed", str(settings.seed), "--calibration-count", str(settings.crops)]
    words += [
        "--calibration-size",
        str(settings.crop_side),
        "--input-size",
        "x".join(map(str, settings.input_shape[2:])),
    ]
    for option in settings.options:
        words += ["--set", option]
    return words


def bitwright_arm(network: Network, settings: Settings, drop: float, folder: Path) -> Prepared:
    """Run the command to its end, or on from where it was stopped; a broken promise is a result, not a failure."""
    run = folder / "run"
    folder.mkdir(parents=True, exist_ok=True)
    words = compress_command(network, settings, drop, run)
    resumed = run.exists()
    started = time.monotonic()
    with (folder / "output.log").open("ab") as log:
        done = subprocess.run(
            [sys.executable, "-m", "bitwright", *words, "--resume"], stdout=log, stderr=subprocess.PIPE, check=False
        )
        log.write(done.stderr)
    seconds = time.monotonic() - started
    message = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
    if done.returncode not in _ACCEPTED or not (run / "report.json").is_file():
        raise BitwrightError(
            f"{network.name}: bitwright compress ended with {done.returncode}: {' '.join(message)}; see "
            f"{folder / 'output.log'}"
        )
    report = Report.from_json((run / "report.json").read_bytes())
    assert report.audit is not None
    assert report.quality is not None
    stages = report.timings_s
    return Prepared(
        run / "engine",
        sum(spent for stage, spent in stages.items() if stage not in PROOF_STAGES),
        layers=(report.audit.executed.get("int8", 0), sum(report.audit.executed.values())),
        details={
            "exit_code": done.returncode,
            "message": " ".join(message) if done.returncode else "",
            "command": ["bitwright", *words],
            "command_wall_s": seconds,
            "command_resumed": resumed,
            "stages_s": dict(stages),
            "planned_int8_layers": report.audit.planned.get("int8", 0),
            "mismatches": len(report.audit.mismatches),
            "torch_engine_gap": report.quality.torch_engine_gap,
            "float_precision": report.runtime.float_precision,
        },
    )


def drops_of(text: str) -> tuple[float, ...]:
    """The numbers of a list such as `0.15,0.05`."""
    return tuple(float(part) for part in text.split(",") if part.strip())


def names_of(text: str) -> Sequence[str]:
    """The names of a list such as `rfdn_x4,pan_x4`."""
    return [part.strip() for part in text.split(",") if part.strip()]
