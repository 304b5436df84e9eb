"""Footprint: what a device needs for an engine: files, the runtime's packages with versions and sizes, a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel, ConfigDict

from deploy.engine import EngineSpec, Runtime
from deploy.engines import SPEC_FILE, read_spec
from deploy.engines.runtime_packages import package_of
from deploy.engines.tensorrt_record import RECORD_FILE


class Needed(BaseModel):
    """A package of the package index. `bytes`: of its files as they are installed here, None where that is not told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    bytes: int | None


class Footprint(BaseModel):
    """Files of an engine with their sizes in bytes, and packages: the runtime first, then what it depends on.

    `beside`: in words, what no package brings and what this machine may lack.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: dict[str, int]
    packages: tuple[Needed, ...]
    beside: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Of everything together, as far as it is known."""
        return sum(self.files.values()) + sum(package.bytes or 0 for package in self.packages)


def footprint(folder: Path) -> Footprint:
    """Read what the engine in `folder` needs besides Python itself; UsageError where there is no engine."""
    spec = read_spec(folder)
    files = {name: (folder / name).stat().st_size for name in (spec.artefact, SPEC_FILE, *_more_files(spec))}
    packages = tuple(installed(package_of(spec.runtime)))
    return Footprint(files=files, packages=packages, beside=_beside(spec))


def _more_files(spec: EngineSpec) -> tuple[str, ...]:
    """What an engine reads beside its artefact: TensorRT's record, and what LiteRT compiles for other sizes."""
    if spec.runtime.compiles:
        return (RECORD_FILE,)
    return (spec.onnx,) if spec.runtime is Runtime.LITERT and spec.super_resolution is not None else ()


def _beside(spec: EngineSpec) -> tuple[str, ...]:
    gpu = gpu_needed(spec)
    return (*gpu, "a build of torch for CUDA") if gpu and spec.runtime is Runtime.TORCH else gpu


def gpu_needed(spec: EngineSpec) -> tuple[str, ...]:
    """The GPU that an engine needs, in words; nothing where it needs none."""
    if spec.compute_capability is None:
        return ()
    return (f"an NVIDIA GPU of compute capability {spec.compute_capability} with its driver",)


def installed(distribution: str, places: Sequence[str] | None = None) -> Iterator[Needed]:
    """A distribution and all that it requires, without its extras; what is not installed is left out.

    `places`: the folders that another environment keeps its packages in, in place of this one's.
    """
    seen: set[str] = set()
    pending = [distribution]
    while pending:
        name = canonicalize_name(pending.pop(0))
        if name in seen:
            continue
        seen.add(name)
        found = next(iter(_distributions(name, places)), None)
        if found is None:
            continue
        yield Needed(name=name, version=found.version, bytes=_installed_bytes(found))
        wanted = map(Requirement, found.requires or ())
        pending += [r.name for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]


def _distributions(name: str, places: Sequence[str] | None) -> Iterable[metadata.Distribution]:
    return metadata.distributions(name=name) if places is None else metadata.distributions(name=name, path=[*places])


def _installed_bytes(found: metadata.Distribution) -> int | None:
    paths = [Path(str(file.locate())) for file in found.files or ()]
    return sum(path.stat().st_size for path in paths if path.is_file()) or None
