"""Writing a bundle: one file that Python runs, with engines, an input, the runner and a manifest with hashes."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx

from bitwright.foundation import files as foundation_files
from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import atomic_path
from bitwright.foundation.progress import track
from deploy.engine import EngineSpec, Runtime
from deploy.engines import load_engine, read_spec
from deploy.engines.sessions import EXECUTED_SUFFIX, opens
from deploy.latency import Candidate
from deploy.onnx_plan import plan_of
from deploy.remote.archive import MANIFEST
from deploy.remote.manifest import Arm, Manifest, Protocol
from hw_profiles import DeviceProfile

RUNNER_MODULES = (
    "bitwright.foundation.caches",
    "bitwright.foundation.errors",
    "bitwright.foundation.files",
    "bitwright.foundation.optional",
    "bitwright.foundation.progress",
    "deploy.cuda_library",
    "deploy.engines.cuda_driver",
    "deploy.engines.cuda_run",
    "deploy.engines.litert_session",
    "deploy.engines.onnxruntime_session",
    "deploy.engines.openvino_session",
    "deploy.engines.runtime_packages",
    "deploy.engines.sessions",
    "deploy.engines.tensorrt_log",
    "deploy.engines.tensorrt_session",
    "deploy.gpu_match",
    "deploy.heat",
    "deploy.latency.child_process",
    "deploy.latency.foreign_load",
    "deploy.latency.processor_time",
    "deploy.latency.rounds",
    "deploy.latency.statistics",
    "deploy.latency.steadiness",
    "deploy.latency.timing",
    "deploy.machine",
    "deploy.nvidia_gpus",
    "deploy.nvidia_power",
    "deploy.power_rails",
    "deploy.remote.archive",
    "deploy.remote.printed_progress",
    "deploy.remote.runner",
    "deploy.remote.runner_session",
    "deploy.remote.runner_worker",
    "deploy.remote.sample_log",
    "deploy.runtimes",
)
"""The modules that travel; they import nothing but each other, Python and numpy, a runtime when it is used, and NVML
where it is there."""

_ROOTS = {"bitwright": Path(foundation_files.__file__).parents[1], "deploy": Path(__file__).parents[1]}
_TIME = (1980, 1, 1, 0, 0, 0)
# Read by whatever Python there is, so in words that old ones understand.
_MAIN = b'''"""Times the engines of this bundle; the samples go to a folder beside it. See --help."""
import sys

if sys.version_info < (3, 11):
    sys.stderr.write("error: this bundle needs Python 3.11 or later, and this is %s\\n" % sys.version.split()[0])
    raise SystemExit(2)
try:
    import numpy
except ImportError as error:
    sys.stderr.write("error: numpy is not installed (%s); install it with: pip install numpy\\n" % error)
    raise SystemExit(2)

from deploy.remote.runner import main

raise SystemExit(main())
'''


Simulate = Callable[[np.ndarray], np.ndarray]
"""A network in torch as a function of one input, [N, C, H, W] float32, that gives the same each time."""


def write_bundle(
    out: Path,
    candidates: Sequence[Candidate],
    x: np.ndarray,
    protocol: Protocol,
    *,
    run: Path,
    device: DeviceProfile | None = None,
    networks: Mapping[str, Simulate] = MappingProxyType({}),
) -> Manifest:
    """Write the bundle of `candidates` on one input, [N, C, H, W] float32, to `out`.

    The same engines, input and protocol make the same bundle. `device`: what a compiled engine has to be for.
    `networks`: by engine its network in torch, which gives the output where the engine does not run here.
    UsageError for an engine that cannot be loaded here, or does not take the input; DeviceError for one that does not
    run here and has no network: the output that the other machine's is compared with is taken here.
    """
    if x.ndim != 4 or x.dtype != np.float32:
        raise UsageError(f"the input of a bundle must be float32 [N, C, H, W], got {x.dtype} {x.shape}")
    files = {"__main__.py": _MAIN, "input.npy": _npy(x), **runner_sources()}
    arms = []
    for index, candidate in enumerate(track(candidates, "bundling engines")):
        spec = read_spec(candidate.folder)
        if not opens(spec.runtime):
            known = ", ".join(runtime for runtime in Runtime if opens(runtime))
            raise UsageError(f"{candidate.folder} is an engine of {spec.runtime}; a bundle carries engines of {known}")
        # One thread, so that the output, and with it the bundle, is the same each time.
        engine = load_engine(candidate.folder, 1, device=device)
        engine.require_takes(x)
        if protocol.cuda_graph:
            engine.use_cuda_graph()
        network = None if engine.why_not_here() is None else networks.get(candidate.name)
        arm = Arm(
            name=candidate.name,
            spec=spec,
            file=f"engines/{index}{Path(spec.artefact).suffix}",
            output=f"outputs/{index}.npy",
            executed=_executed(candidate.folder, spec, index),
            simulated=network is not None,
        )
        files[arm.output] = _npy(engine.run(x) if network is None else network(x))
        files[arm.file] = engine.file_for(x.shape)
        arms.append(arm)
    n, c, h, w = x.shape
    manifest = Manifest(
        run=str(run.absolute()),
        input="input.npy",
        input_shape=(n, c, h, w),
        arms=tuple(arms),
        protocol=protocol,
        files={name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())},
    )
    _write(out, {**files, MANIFEST: manifest.to_bytes()})
    return manifest


def _executed(folder: Path, spec: EngineSpec, index: int) -> str | None:
    """The file for what is executed: where the runtime tells it, and there is a plan that it can be held against."""
    suffix = EXECUTED_SUFFIX.get(spec.runtime)
    planned = suffix is not None and plan_of(onnx.load(folder / spec.onnx, load_external_data=False)) is not None
    return f"executed-{index}{suffix}" if planned else None


def is_bundle(path: Path) -> bool:
    """Whether a file looks like a bundle, so that another may take its place."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return MANIFEST in archive.namelist()


def runner_sources() -> dict[str, bytes]:
    """The source files of the runner, with empty files in place of what its packages import at home."""
    found: dict[str, bytes] = {}
    for module in RUNNER_MODULES:
        root, *rest = module.split(".")
        found["/".join([root, *rest]) + ".py"] = (_ROOTS[root].joinpath(*rest).with_suffix(".py")).read_bytes()
        for depth in range(1, len(rest) + 1):
            found["/".join([root, *rest][:depth]) + "/__init__.py"] = b""
    return found


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _write(out: Path, files: Mapping[str, bytes]) -> None:
    with (
        atomic_path(out) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive,
    ):
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _TIME), files[name], zipfile.ZIP_DEFLATED)
