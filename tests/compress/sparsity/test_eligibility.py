"""Which layers are pruned: on real graphs, with reasons that say why the others are not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.graph import capture
from compress.layer_table import LayerTable
from compress.nm_pattern import Sparsity
from compress.sparsity.eligibility import Decision, boundary_layers, decide


class Net(nn.Module):
    """A stem on an image, a depthwise, a grouped and a shared layer, odd channel counts, and a tail."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.body = nn.Conv2d(32, 32, 3, padding=1)
        self.grouped = nn.Conv2d(32, 24, 3, padding=1, groups=4)
        self.odd = nn.Conv2d(24, 25, 3, padding=1)
        self.seven = nn.Conv2d(25, 32, 3, padding=1)
        self.tiny = nn.Conv2d(32, 1, 1)
        self.tail = nn.Conv2d(32, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(torch.relu(self.body(self.depthwise(self.stem(x)))))
        y = self.seven(self.odd(self.grouped(y)))
        y = y * torch.sigmoid(self.tiny(y))
        return nn.functional.pixel_shuffle(self.tail(y), 2)


def decisions(text: str, **more: object) -> dict[str, Decision]:
    example = torch.zeros(1, 3, 16, 16)
    graph = capture(Net(), example)
    return decide(graph, LayerTable.from_graph(graph, example), Sparsity.parse(text), **more)


def test_layers_next_to_image_and_output_are_found() -> None:
    first, last = boundary_layers(capture(Net(), torch.zeros(1, 3, 16, 16)))
    assert first == {"stem"}
    assert last == {"tail"}


def test_each_layer_gets_its_pattern_or_a_reason() -> None:
    found = decisions("2:4")
    assert {n: str(d.pattern) for n, d in found.items() if d.pattern is not None} == {
        "body": "2:4", "body#2": "2:4", "grouped": "2:4", "odd": "2:4"
    }  # fmt: skip
    assert "not divided by groups of 4" in found["stem"].reason
    assert "depthwise" in found["depthwise"].reason
    assert "25 input channels" in found["seven"].reason
    assert "less than 0.5 %" in found["tiny"].reason
    assert found["tail"].reason == "last layer before the output"


def test_a_pattern_that_does_not_fit_is_halved_and_said_so() -> None:
    found = decisions("1:16")
    assert str(found["grouped"].pattern) == "1:8"
    assert "1:8 in place of 1:16" in found["grouped"].warning
    assert str(found["odd"].pattern) == "1:8"
    assert str(found["body"].pattern) == "1:16"


def test_where_channels_are_filled_up_the_last_group_is_short() -> None:
    found = decisions("2:4", fill=True)
    assert str(found["seven"].pattern) == "2:4"
    assert found["seven"].warning == "the last of its groups of 4 has 1 channels: there are 25"
    assert found["odd"].warning == ""
    assert found["stem"].pattern is None, "three channels are no group of four"


def test_single_group_rows_warn_and_requests_keep_layers_dense() -> None:
    found = decisions("1:32", dense=["body#2"])
    assert found["body"].pattern is None
    assert found["body"].reason == "kept dense by request"
    assert decisions("1:32")["body"].warning == "a single group of 32 to each row"


def test_an_image_stem_stays_dense_where_m_divides_its_channels() -> None:
    assert decisions("1:3")["stem"].reason == "first layer, reads the image"
