"""Classification networks, one architecture a file, with the keys under which their weights are published."""

from __future__ import annotations

from workloads.classification.models import resnet

ARCHITECTURES = (resnet.ARCHITECTURE,)
