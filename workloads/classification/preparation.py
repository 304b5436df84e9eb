"""Pictures as a classifier takes them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workloads.classification.format import ClassificationFormat


def normalised(images: NDArray[np.uint8], io: ClassificationFormat) -> Tensor:
    """RGB uint8 [N, H, W, 3] as the network's float32 [N, 3, H, W]."""
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 255
    return (pixels - torch.tensor(io.mean).view(1, 3, 1, 1)) / torch.tensor(io.std).view(1, 3, 1, 1)
