"""Group progressive guidance: the wide subnets teach the random ones, and these the narrow one (section 5.2).

`ImageGuidance` is our adaptation to networks whose output is an image (section 11.1); nothing of it is in the paper,
and results of it are labelled so (`EqnetSettings.label`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST_LOSS = 1e-12
Outputs = tuple[Tensor, ...]
"""What a network returned: its output, and the inner tensors that are compared."""


@dataclass(frozen=True)
class Lesson:
    """What a group of subnets teaches; without gradient."""

    output: Tensor
    features: tuple[Tensor, ...] = ()


class LogitDistance(StrEnum):
    """How far the logits of a student are from its teacher's."""

    KL = "kl"
    """Divergence of the probabilities: the paper's."""
    SQUARED = "squared"
    """Mean squared difference of the logits: ours. It has a gradient where the teacher is sure as well."""


class Guidance(ABC):
    """The losses of the three groups. `share`: weight of the teacher against the labels; 0 is no guidance.

    `logarithm`: of a subnet's whole loss, so that its gradient is relative to the loss: ours.
    """

    taps: bool = False
    """Whether inner tensors are compared."""

    def __init__(self, share: float, *, logarithm: bool = False) -> None:
        self.share, self.logarithm = share, logarithm

    @abstractmethod
    def own(self, outputs: Outputs, target: Tensor) -> Tensor:
        """The task's loss."""

    @abstractmethod
    def teach(self, group: Sequence[Outputs]) -> Lesson:
        """What a group says on average."""

    @abstractmethod
    def distance(self, outputs: Outputs, lesson: Lesson, target: Tensor) -> Tensor:
        """How far a student is from its lesson."""

    def loss(self, outputs: Outputs, target: Tensor, lesson: Lesson | None) -> Tensor:
        """The loss of one subnet; without a lesson it is the task's."""
        if lesson is None or self.share == 0.0:
            found = self.own(outputs, target)
        else:
            found = self.share * self.distance(outputs, lesson, target)
            if self.share < 1.0:
                found = found + (1.0 - self.share) * self.own(outputs, target)
        return torch.log(found.clamp_min(SMALLEST_LOSS)) if self.logarithm else found


class ClassGuidance(Guidance):
    """share * KL(teacher || student) * temperature^2 + (1 - share) * cross-entropy; labels are not smoothed.

    Several teachers give the mean of their softened probabilities. The paper gives neither share nor temperature; 0.5
    and 1 are the release's. With squared distances the mean squared difference of logits takes the divergence's place,
    several teachers give the mean of their logits, and there is no temperature.
    """

    def __init__(
        self, share: float = 0.5, temperature: float = 1.0, *, logits: LogitDistance = LogitDistance.KL,
        logarithm: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(share, logarithm=logarithm)
        self.temperature, self.logits = temperature, logits

    def own(self, outputs: Outputs, target: Tensor) -> Tensor:
        """Mean cross-entropy of logits [N, classes] and class numbers [N]."""
        return F.cross_entropy(outputs[0].float(), target)

    def teach(self, group: Sequence[Outputs]) -> Lesson:
        """Mean probabilities or logits [N, classes]."""
        each = [outputs[0].detach().float() for outputs in group]
        if self.logits is LogitDistance.KL:
            each = [torch.softmax(logits / self.temperature, 1) for logits in each]
        return Lesson(torch.stack(each).mean(0))

    def distance(self, outputs: Outputs, lesson: Lesson, target: Tensor) -> Tensor:
        """Forward KL or the squared difference, mean over the batch."""
        if self.logits is LogitDistance.SQUARED:
            return F.mse_loss(_centred(outputs[0].float()), _centred(lesson.output))
        logs = F.log_softmax(outputs[0].float() / self.temperature, 1)
        return F.kl_div(logs, lesson.output, reduction="batchmean") * self.temperature**2


class ImageGuidance(Guidance):
    """(1 - share) * L1(student, image) + share * (L1(student, teacher) + feature_weight * D): adapted, see the module.

    `laplace`: the teacher's term is the KL of Laplace densities whose width is the teacher's own mean error. `gate`:
    only samples on which the teacher is nearer to the image than the student are guided. PSNR is a logarithm, which is
    what `logarithm` follows.
    """

    def __init__(
        self, share: float = 0.5, feature_weight: float = 0.0, *, laplace: bool = False, gate: bool = False,
        logarithm: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(share, logarithm=logarithm)
        self.feature_weight, self.laplace, self.gate = feature_weight, laplace, gate
        self.taps = feature_weight > 0

    def own(self, outputs: Outputs, target: Tensor) -> Tensor:
        """Mean absolute error in the training range."""
        return F.l1_loss(outputs[0].float(), target)

    def teach(self, group: Sequence[Outputs]) -> Lesson:
        """The mean image, and the mean of each inner tensor."""
        parts = [torch.stack([t.detach().float() for t in same]).mean(0) for same in zip(*group, strict=True)]
        return Lesson(parts[0], tuple(parts[1:]))

    def distance(self, outputs: Outputs, lesson: Lesson, target: Tensor) -> Tensor:
        """Distance of images, [], plus that of the inner tensors."""
        gap = (outputs[0].float() - lesson.output).abs()
        if self.laplace:
            width = (lesson.output - target).abs().mean().clamp_min(1e-12)
            gap = gap + width * (torch.exp(-gap / width) - 1)
        each = gap.flatten(1).mean(1)
        if self.gate:
            teacher, student = (
                (y - target).abs().flatten(1).mean(1) for y in (lesson.output, outputs[0].detach().float())
            )
            each = each * (teacher < student)
        total = each.mean()
        if self.feature_weight:
            pairs = zip(outputs[1:], lesson.features, strict=True)
            total = total + self.feature_weight * sum((_structure(s, t) for s, t in pairs), torch.zeros(()))
        return total


def _centred(logits: Tensor) -> Tensor:
    """Logits without their mean over the classes, which no probability depends on."""
    return logits - logits.mean(dim=1, keepdim=True)


def _structure(student: Tensor, teacher: Tensor) -> Tensor:
    """Distance of two inner tensors [N, C, H, W]: their energy over positions, as unit vectors, mean over samples."""
    maps = [F.normalize(x.float().square().sum(1).flatten(1), dim=1) for x in (student, teacher)]
    distance: Tensor = torch.linalg.vector_norm(maps[0] - maps[1], dim=1).mean()
    return distance
