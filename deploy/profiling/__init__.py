"""Profiling: time of every kernel that a runtime really executes, for the latency table of a device.

- `profile_engine`, `profile_kernels`: an engine's kernels and its whole latency, in a process of its own
- `Subject`, `profiling_plans`: networks, and the plans that bring out every precision and every boundary
- `grid_subject`: synthetic networks that cover the shapes of super-resolution
- `Session`: measures what a table lacks
"""

from deploy.profiling.grid import grid_mixed, grid_names, grid_plans, grid_sizes, grid_subject
from deploy.profiling.plans import profiling_plans
from deploy.profiling.rows import Circumstances
from deploy.profiling.session import Session
from deploy.profiling.subject import Subject
from deploy.profiling.timing import EngineTimes, profile_engine, profile_kernels

__all__ = [
    "Circumstances",
    "EngineTimes",
    "Session",
    "Subject",
    "grid_mixed",
    "grid_names",
    "grid_plans",
    "grid_sizes",
    "grid_subject",
    "profile_engine",
    "profile_kernels",
    "profiling_plans",
]
