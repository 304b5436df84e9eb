"""ResNet for 32x32 images, with parameter-free shortcuts (He et al., CVPR 2016, arXiv:1512.03385, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from workloads.architecture import Architecture, Network, StateDict, highest_index, out_channels
from workloads.classification.format import ClassificationFormat

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INPUT_SIZE = 32


@dataclass(frozen=True)
class ResNetConfig:
    """Sizes of a CIFAR ResNet of 6 * blocks + 2 layers; stages have `width`, 2 `width` and 4 `width` channels."""

    blocks: int = 3
    width: int = 16
    classes: int = 10

    @classmethod
    def from_state_dict(cls, state: StateDict) -> ResNetConfig:
        """Read the sizes off the weights' shapes."""
        return cls(
            blocks=highest_index(state, r"layer1\.(\d+)\.") + 1,
            width=out_channels(state, "conv1"),
            classes=out_channels(state, "linear"),
        )


class BasicBlock(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)), the shortcut being "option A": subsample and pad with zeros."""

    def __init__(self, incoming: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.padding = (width - incoming) // 2
        self.conv1 = nn.Conv2d(incoming, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape [N, incoming, H, W] to [N, width, ceil(H / stride), ceil(W / stride)]."""
        features = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]
        if self.padding:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(features + shortcut)


class ResNet(Network):
    """Normalised RGB of shape [N, 3, H, W] to logits of shape [N, classes]."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, config.blocks, stride=1)
        self.layer2 = _stage(width, 2 * width, config.blocks, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, config.blocks, stride=2)
        self.linear = nn.Linear(4 * width, config.classes)

    @property
    def io(self) -> ClassificationFormat:
        """32x32 RGB normalised with the ImageNet statistics, which the published weights were trained with."""
        return ClassificationFormat(self.config.classes, IMAGENET_MEAN, IMAGENET_STD, INPUT_SIZE)

    def forward(self, x: Tensor) -> Tensor:
        """Classify a batch."""
        features = F.relu(self.bn1(self.conv1(x)))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.linear(features.mean(dim=(2, 3)))
        return logits


def _stage(incoming: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(incoming, width, stride)
    return nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(blocks - 1)))


ARCHITECTURE = Architecture(
    name="resnet",
    marks=("conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer3.0.bn2.running_var", "linear.weight"),
    build=lambda state: ResNet(ResNetConfig.from_state_dict(state)),
    reference=lambda: ResNet(ResNetConfig()),
)
