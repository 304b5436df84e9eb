"""GpuTarget: the GPU architecture that TensorRT compiles for, read from a device profile."""

from __future__ import annotations

from types import ModuleType

from pydantic import BaseModel, ConfigDict, Field

from bitwright.foundation.errors import UsageError
from deploy.engine import Runtime
from deploy.gpu import compute_capability
from deploy.gpu_match import why_not_by_driver
from hw_profiles import DeviceProfile

_SPARSE = "sparse_2_4"


class GpuTarget(BaseModel):
    """A GPU architecture, and the profile that asked for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    compute_capability: str = Field(description="major.minor, such as 8.9")
    profile: str
    profile_hash: str
    sparse: bool = Field(description="whether its tensor cores have 2:4 kernels")

    @staticmethod
    def of(device: DeviceProfile) -> GpuTarget:
        """The target of a profile; UsageError where its architecture is not an NVIDIA GPU's."""
        capability = compute_capability(device)
        if capability is None:
            raise UsageError(
                f"TensorRT compiles for NVIDIA GPUs; the architecture of {device.id} is "
                f"{device.arch.isa or 'not given'}, expected sm_<compute capability> such as sm_89"
            )
        return GpuTarget(
            compute_capability=capability,
            profile=device.id,
            profile_hash=device.hash(),
            sparse=_SPARSE in device.arch.features,
        )

    @property
    def member(self) -> str:
        """Its name in TensorRT's `ComputeCapability`, such as SM89."""
        return "SM" + self.compute_capability.replace(".", "")

    def require(self, api: ModuleType, runtime: Runtime) -> None:
        """UsageError unless this version of the runtime can compile for the target.

        TensorRT-RTX compiles for the architectures that it lists, with or without a GPU; TensorRT for the GPU here.
        """
        if runtime is Runtime.TENSORRT_RTX:
            known = [name for name in api.ComputeCapability.__members__ if name.startswith("SM")]
            if self.member not in known:
                listed = ", ".join(name.removeprefix("SM") for name in known)
                raise UsageError(
                    f"{runtime} {api.__version__} does not compile for SM {self.compute_capability} ({self.profile}); "
                    f"it compiles for {listed}"
                )
        else:
            reason = why_not_by_driver(self.compute_capability, self.profile)
            if reason is not None:
                raise UsageError(
                    f"{runtime} compiles an engine on a GPU like the one that it is for, so build it on such a machine "
                    f"or use the runtime tensorrt-rtx: {reason}"
                )
