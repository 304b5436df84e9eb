"""bitwright: compress a trained network for a device, and prove what the engine really executed.

import bitwright
result = bitwright.compress("rfdn_x4.pth", device="x86-avx512-vnni-bf16", data="photos", max_drop=0.1)
print(result.report.latency.speedup.ratio, result.report.quality.drop)
y = result.engine().run(x)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bitwright.api import CurveResult as CurveResult
    from bitwright.api import Result as Result
    from bitwright.api import UpscaleSummary as UpscaleSummary
    from bitwright.api import compress as compress
    from bitwright.api import curve as curve
    from bitwright.api import upscale as upscale

from bitwright.foundation.version import VERSION

__version__ = VERSION
__all__ = ["CurveResult", "Result", "UpscaleSummary", "compress", "curve", "upscale"]


def __getattr__(name: str) -> object:
    # Importing the package must stay fast: torch and the runtimes are loaded with the first use.
    if name in __all__:
        from bitwright import api

        return getattr(api, name)
    raise AttributeError(f"module 'bitwright' has no attribute {name!r}")
