"""Which runtime a job's engine and its float baseline are built for, and what to do where it is not installed."""

from __future__ import annotations

from bitwright.foundation.errors import MissingPackageError, UsageError
from bitwright.runs.precision import Precision, has
from deploy.engine import Runtime
from deploy.engines.runtime_packages import pip_command, runtime_version
from hw_profiles import DeviceKind, DeviceProfile, installed_runtimes, reaches, takes, why_foreign

RUNTIME_NAMES = {
    Runtime.ONNXRUNTIME: "ONNX Runtime", Runtime.TENSORRT: "TensorRT", Runtime.TENSORRT_RTX: "TensorRT-RTX",
}  # fmt: skip
"""What the runtimes call themselves, where that is another word."""

_OTHERS = (Runtime.TENSORRT_RTX, Runtime.TORCH)
"""What there is in place of TensorRT."""


def choose_runtime(profile: DeviceProfile, wanted: str | None, precision: Precision = Precision.INT8, *,
                   without: Runtime | None = None) -> Runtime:  # fmt: skip
    """The runtime asked for, or the first of the profile that is installed and that engines can be built for here.

    Without a wish, one that executes `precision`, not of matrix products alone, and is not `without`; what is to be
    installed comes before a torch that does not reach the device's GPU. UsageError for one that the profile lacks, or
    that is installed in a version that the profile does not take. torch compiles for the processor that it runs on, so
    it builds nothing for one of another architecture.
    """
    known = _known(profile, without)
    supported = buildable(profile, without)
    if not supported:
        engines = ", ".join(r.engine.value for r in profile.runtimes) or "none"
        raise UsageError(f"{profile.id} runs {engines}; engines can be built for {', '.join(sorted(known))} only")
    if wanted is not None and wanted not in supported:
        built = " that builds engines for it here" if why_foreign(profile) is not None else ""
        raise UsageError(f"{profile.id} has no runtime {wanted!r}{built}; it has {', '.join(supported)}")
    able = [engine for engine in supported if _has_whole(profile, precision, Runtime(engine))] or supported
    installed = installed_runtimes()
    chosen = Runtime(wanted or min(able, key=lambda engine: _place(profile, engine, installed.get(engine))))
    entry, version = profile.runtime(chosen.value), installed.get(chosen.value)
    if entry is not None and version is not None and not entry.accepts(version):
        raise UsageError(
            f"{chosen} {version} is installed, and {profile.id} takes {entry.version}; "
            f"install it with: {install_command(profile, chosen)}"
        )
    return chosen


def buildable(profile: DeviceProfile, without: Runtime | None = None) -> list[str]:
    """The profile's runtimes that engines can be built for here, preferred first, but for `without`."""
    known = _known(profile, without)
    return [entry.engine.value for entry in profile.runtimes if entry.engine.value in known]


def _known(profile: DeviceProfile, without: Runtime | None) -> set[str]:
    foreign = why_foreign(profile) is not None
    return {r.value for r in Runtime if r is not without and not (foreign and r is Runtime.TORCH)}


def _has_whole(profile: DeviceProfile, precision: Precision, runtime: Runtime) -> bool:
    """Whether the runtime has a precision, and not for matrix products alone, as torch has int8 and fp8 on GPUs."""
    partly = runtime is Runtime.TORCH and runs_on_gpu(profile, runtime) and not precision.is_float
    return has(profile, precision, runtime.value) and not partly


def _place(profile: DeviceProfile, engine: str, version: str | None) -> int:
    """Where a runtime comes in the choice: installed and usable, in another version, to be installed, out of reach."""
    if version is None:
        return 2
    if takes(profile, engine, version):
        return 0
    return 1 if reaches(profile, version) else 3


def install_command(profile: DeviceProfile, runtime: Runtime) -> str:
    """What to type to install a runtime in a version that the profile takes."""
    entry = profile.runtime(runtime.value)
    return pip_command(runtime, "" if entry is None else entry.version or "")


def require_installed(profile: DeviceProfile, runtime: Runtime, precision: Precision) -> None:
    """MissingPackageError where the runtime is not installed; of TensorRT it tells what else there is.

    What the package registry has of TensorRT is a stub that fetches it from NVIDIA's own index.
    """
    try:
        runtime_version(runtime)
    except MissingPackageError as error:
        if runtime is not Runtime.TENSORRT:
            raise
        others = [
            _instead(profile, engine, precision) for engine in _OTHERS if profile.runtime(engine.value) is not None
        ]
        ways = [f"install it with: {install_command(profile, runtime)} (on a Jetson, with JetPack)", *others]
        rtx = RUNTIME_NAMES[Runtime.TENSORRT_RTX]
        lacks = "" if profile.runtime(Runtime.TENSORRT_RTX.value) else f"; {profile.id} does not name {rtx}"
        raise MissingPackageError(
            f"tensorrt cannot be imported ({error.__cause__}); {', or '.join(ways)}{lacks}"
        ) from error


def baseline_runtime(profile: DeviceProfile, runtime: Runtime) -> Runtime:
    """What an engine's float baseline runs in: ONNX Runtime; on a GPU the engine's own runtime, to run there too."""
    return runtime if runs_on_gpu(profile, runtime) else Runtime.ONNXRUNTIME


def runs_on_gpu(profile: DeviceProfile, runtime: Runtime) -> bool:
    """Whether engines of the runtime for the device run on an NVIDIA GPU."""
    return runtime.compiles or (runtime is Runtime.TORCH and profile.kind is DeviceKind.GPU)


def _instead(profile: DeviceProfile, runtime: Runtime, precision: Precision) -> str:
    """The flags that take another runtime, in the precision asked for where it has that."""
    return (
        f"take --runtime {runtime}{'' if _has_whole(profile, precision, runtime) else f' --precision {Precision.FP16}'}"
    )
