"""Devices: what each can legally execute, what it costs, and where each number came from.

- `DeviceProfile`, `PrecisionRule`: the schema (`schema`, `precision`, `resources`, `provenance`, `terms`)
- `load_profile`, `list_profiles`, `profile_ids`: the catalogue of YAML files, and files of the user's own
- `bitops`, `bytes_moved`, `estimate_ms`: one definition of each quantity
- `detect_host`, `installed_runtimes`, `match_host`, `takes`, `reaches`: which profile fits this machine
- `architecture_of`, `why_foreign`: whether a profile is for processors of another architecture
"""

from hw_profiles.architecture import architecture_of, why_foreign
from hw_profiles.bitops import bitops
from hw_profiles.host import Host, detect_host
from hw_profiles.installed import installed_runtimes
from hw_profiles.loading import list_profiles, load_profile, profile_ids
from hw_profiles.matching import HostMatch, RuntimeMatch, match_host, reaches, takes
from hw_profiles.precision import Emulation, PrecisionRule, TensorFormat
from hw_profiles.provenance import Provenance
from hw_profiles.roofline import Bound, Estimate, estimate_ms
from hw_profiles.schema import DeviceProfile, RuntimeSupport, Sparsity
from hw_profiles.terms import DeviceKind, DType, EmulationKind, Granularity, Op, RuntimeEngine, Status
from hw_profiles.traffic import bytes_moved

__all__ = [
    "Bound",
    "DType",
    "DeviceKind",
    "DeviceProfile",
    "Emulation",
    "EmulationKind",
    "Estimate",
    "Granularity",
    "Host",
    "HostMatch",
    "Op",
    "PrecisionRule",
    "Provenance",
    "RuntimeEngine",
    "RuntimeMatch",
    "RuntimeSupport",
    "Sparsity",
    "Status",
    "TensorFormat",
    "architecture_of",
    "bitops",
    "bytes_moved",
    "detect_host",
    "estimate_ms",
    "installed_runtimes",
    "list_profiles",
    "load_profile",
    "match_host",
    "profile_ids",
    "reaches",
    "takes",
    "why_foreign",
]
