"""Predicted latency of a whole network, from the kernels that a runtime fuses for it.

- `LatencyPredictor`: `fit` on a latency table, `predict` kernels, `save` and `load` as JSON
- `Prediction`, `KernelTime`, `Source`: a time, its parts, and where each part comes from
- `FitReport`, `Agreement`, `Method`: its own error on held-out networks, and what was tried
- `peak_memory_bytes`: weights and live tensors, computed
"""

from hw_profiles.predictor.agreement import Agreement
from hw_profiles.predictor.correction import Method
from hw_profiles.predictor.memory import peak_memory_bytes
from hw_profiles.predictor.prediction import KernelTime, Prediction, Source
from hw_profiles.predictor.predictor import LatencyPredictor
from hw_profiles.predictor.validation import FitReport

__all__ = [
    "Agreement",
    "FitReport",
    "KernelTime",
    "LatencyPredictor",
    "Method",
    "Prediction",
    "Source",
    "peak_memory_bytes",
]
