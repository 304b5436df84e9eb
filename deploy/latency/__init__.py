"""Latency: engines timed side by side in processes of their own. `measure` gives a `ComparisonResult`."""

from deploy.latency.comparison import ComparisonResult
from deploy.latency.harness import Candidate, measure
from deploy.latency.measurement import Clock, LatencySummary, Measurement, Noise, Speedup
from deploy.latency.policies import LoadGate, WarmUp
from deploy.latency.statistics import Percentile, Verdict

__all__ = [
    "Candidate",
    "Clock",
    "ComparisonResult",
    "LatencySummary",
    "LoadGate",
    "Measurement",
    "Noise",
    "Percentile",
    "Speedup",
    "Verdict",
    "WarmUp",
    "measure",
]
