from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.equality import largest_difference
from compress.graph import capture
from compress.residuals import absorb_residuals
from workloads.loading import load_checkpoint


class Sum(nn.Module):
    def __init__(self, conv: nn.Conv2d, total: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.total = conv, total

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        return functional.leaky_relu(self.total(self.conv(x), x), 0.05)


def absorbed(conv: nn.Conv2d, total: Callable[[Tensor, Tensor], Tensor]) -> tuple[int, float]:
    torch.manual_seed(0)
    graph = capture(Sum(conv, total).eval(), torch.rand(1, 8, 16, 16))
    result, record = absorb_residuals(graph)
    return len(record.absorbed), largest_difference(graph, result, torch.randn(2, 8, 11, 13))


def plain(y: Tensor, x: Tensor) -> Tensor:
    return y + x


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 1, bias=False),
        nn.Conv2d(8, 8, (5, 3), padding="same"),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
    ],
)
@pytest.mark.parametrize("total", [plain, lambda y, x: x + y])
def test_the_sum_goes_and_nothing_changes(conv: nn.Conv2d, total: Callable[[Tensor, Tensor], Tensor]) -> None:
    count, difference = absorbed(conv, total)
    assert count == 1
    assert difference < 1e-5


@pytest.mark.parametrize(
    ("conv", "total"),
    [
        (nn.Conv2d(8, 8, 3, padding=1), lambda y, x: torch.add(y, x, alpha=2)),
        (nn.Conv2d(8, 8, 3, padding=1), lambda y, x: y + 1),
        (nn.Conv2d(8, 8, 3, padding=1), lambda y, x: (y + x) * y),
        (nn.Conv2d(8, 8, 3, padding=1), lambda y, x: y + functional.relu(x - 1)),
        (nn.Conv2d(8, 1, 3, padding=1), plain),
        (nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), plain),
    ],
)
def test_other_sums_stay(conv: nn.Conv2d, total: Callable[[Tensor, Tensor], Tensor]) -> None:
    count, difference = absorbed(conv, total)
    assert count == 0
    assert difference == 0


def test_a_weight_that_two_calls_share_stays() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x) + x
            return self.conv(x)

    _, record = absorb_residuals(capture(Twice().eval(), torch.rand(1, 8, 16, 16)))
    assert record.absorbed == ()


def test_rfdn_loses_its_twelve_sums(data) -> None:
    loaded = load_checkpoint(data / "checkpoints" / "rfdn_x4.pth")
    graph = capture(loaded.module, loaded.workload.example_input(64, 64))
    result, record = absorb_residuals(graph)
    assert len(record.absorbed) == 12
    assert largest_difference(graph, result, torch.rand(1, 3, 40, 56)) < 1e-5
