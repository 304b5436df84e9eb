"""Convolutions and linear layers of four ImageNet networks at 224x224, written down from their papers."""

from __future__ import annotations

from compress.layer_table import LayerRow, LayerTable
from hw_profiles import Op


class Shapes:
    """Layers added one after the other; `side` and `channels` follow the network."""

    def __init__(self) -> None:
        self.rows: list[LayerRow] = []
        self.side, self.channels = 224, 3

    def add(self, incoming: int, outgoing: int, kernel: int, before: int, after: int, groups: int = 1) -> None:
        """One layer from a map of side `before` to one of side `after`."""
        weights = outgoing * (incoming // groups) * kernel**2
        name = f"layer{len(self.rows)}"
        self.rows.append(
            LayerRow(
                name=name, op=Op.CONV, weight=f"{name}.weight", input_shape=(1, incoming, before, before),
                output_shape=(1, outgoing, after, after), kernel=(kernel, kernel), stride=(1, 1),
                groups=groups, macs=weights * after**2, params=weights, weight_elements=weights,
            )
        )  # fmt: skip

    def conv(self, outgoing: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        """One layer at the end of the chain."""
        after = -(-self.side // stride)
        self.add(self.channels, outgoing, kernel, self.side, after, groups)
        self.side, self.channels = after, outgoing

    def table(self) -> LayerTable:
        """All of them."""
        return LayerTable(input_shape=(1, 3, 224, 224), rows=tuple(self.rows))


def resnet(blocks: tuple[int, ...], bottleneck: bool) -> LayerTable:
    """ResNet-18 (2, 2, 2, 2) or, with bottlenecks, ResNet-50 (3, 4, 6, 3)."""
    net = Shapes()
    net.conv(64, 7, 2)
    net.side = 56
    expansion = 4 if bottleneck else 1
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        for block in range(count):
            stride = 2 if stage and not block else 1
            side, channels = net.side, net.channels
            if bottleneck:
                net.conv(width, 1)
                net.conv(width, 3, stride)
                net.conv(width * expansion, 1)
            else:
                net.conv(width, 3, stride)
                net.conv(width, 3)
            if channels != net.channels or stride == 2:
                net.add(channels, net.channels, 1, side, net.side)
    net.side = 1
    net.conv(1000, 1)
    return net.table()


def mobilenet_v2() -> LayerTable:
    """MobileNetV2 at width 1."""
    net = Shapes()
    net.conv(32, 3, 2)
    for expansion, width, count, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for block in range(count):
            inner = net.channels * expansion
            if expansion > 1:
                net.conv(inner, 1)
            net.conv(inner, 3, stride if block == 0 else 1, groups=inner)
            net.conv(width, 1)
    net.conv(1280, 1)
    net.side = 1
    net.conv(1000, 1)
    return net.table()


def efficientnet_b0() -> LayerTable:
    """EfficientNet-B0; squeeze and excitation are two layers on 1x1 maps."""
    net = Shapes()
    net.conv(32, 3, 2)
    for expansion, kernel, stride, width, count in (
        (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    ):  # fmt: skip
        for block in range(count):
            outer = net.channels
            inner = outer * expansion
            if expansion > 1:
                net.conv(inner, 1)
            net.conv(inner, kernel, stride if block == 0 else 1, groups=inner)
            squeezed = max(1, outer // 4)
            net.add(inner, squeezed, 1, 1, 1)
            net.add(squeezed, inner, 1, 1, 1)
            net.conv(width, 1)
    net.conv(1280, 1)
    net.side = 1
    net.conv(1000, 1)
    return net.table()
