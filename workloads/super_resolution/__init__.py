"""The super-resolution task: models, data, degradation and metrics."""
