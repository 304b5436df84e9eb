"""The ViT recipe of the N:M comparison: a vision transformer of depth 3 and width 192 on CIFAR-10, feed-forward pruned.

It is the network on which the authors of arXiv 2402.04744 look at gradients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmarks.nm_recipe import Figure, Recipe, Schedule
from compress.layer_table import LayerRow
from compress.training.samples import Pairs
from workloads.classification.format import ClassificationFormat
from workloads.classification.task import Batches, Classification

SIDE, CLASSES = 32, 10
FORMAT = ClassificationFormat(CLASSES, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), SIDE)
FEED_FORWARD = "feed_forward"


class Block(nn.Module):
    """Attention and a feed-forward network of four times the width, each with a norm ahead and a sum behind."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """[N, tokens, width] to the same."""
        n, tokens, width = x.shape
        split = self.qkv(self.attention_norm(x)).reshape(n, tokens, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        seen = nn.functional.scaled_dot_product_attention(query, key, value)
        x = x + self.projection(seen.transpose(1, 2).reshape(n, tokens, width))
        result: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return result


class VisionTransformer(nn.Module):
    """Patches, learned places, blocks, the mean over tokens and a linear layer."""

    def __init__(self, depth: int = 3, width: int = 192, heads: int = 3, patch: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.places = nn.Parameter(0.02 * torch.randn(1, (SIDE // patch) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 32, 32] to logits [N, 10]."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return logits


class TinyViT(Recipe):
    """`data_root` holds classification/cifar10; `images`: of the test set at most.

    `patch`: side of the patches, pixels, each of which is a token; 8 in place of 4 makes a quarter of the FLOPs.
    """

    name: ClassVar[str] = "vit"
    title: ClassVar[str] = "CIFAR-10 (9,000 images), ViT of depth 3 and width 192, feed-forward layers"
    figures: ClassVar[tuple[Figure, ...]] = (Figure("top1", "top-1 %"), Figure("nll", "NLL", 3))
    patterns: ClassVar[tuple[str, ...]] = ("1:4", "1:8", "1:16", "1:32", "1:64")

    def __init__(self, data_root: Path, images: int | None = None, patch: int = 4) -> None:
        self.folder, self.images, self.patch = data_root / "classification" / "cifar10", images, patch
        self.workload = Classification(FORMAT)
        # 30 epochs of 9,000 images.
        self.schedule = Schedule(steps=4200, batch=64, rate=1e-3, weight_decay=0.01, warm_up=0.05, clip=1.0)

    def network(self) -> nn.Module:
        """The transformer."""
        return VisionTransformer(patch=self.patch)

    def example(self) -> Tensor:
        """A photograph."""
        return self.workload.example_input(SIDE, SIDE)

    def kept_dense(self, rows: Sequence[LayerRow]) -> Iterable[str]:
        """All but the feed-forward layers."""
        return [row.name for row in rows if FEED_FORWARD not in row.name]

    def pairs(self, seed: int) -> Pairs:
        """Training images, flipped and shifted."""
        return self.workload.training(self.folder, SIDE, seed)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy."""
        return self.workload.loss(output, target)

    @cached_property
    def _test(self) -> Batches:
        return self.workload.samples(self.folder, self.images)

    def score(self, model: nn.Module) -> dict[str, float]:
        """Top-1 and cross-entropy on the test images."""
        quality = self.workload.evaluate(self.predict(model), self._test)
        return {"top1": quality.mean, "nll": quality.extra["cross-entropy"]}

    def described(self) -> str:
        """Batch, patches and test images."""
        return f"{super().described()}-{self.patch}-{self.images or 'all'}"

    def remarks(self, results: Sequence[Mapping[str, Any]]) -> list[str]:
        """Into how many tokens an image is cut."""
        del results
        return [f"Patches of {self.patch}x{self.patch} pixels: {(SIDE // self.patch) ** 2} tokens."]
