"""The super-resolution recipe of the N:M comparison: a small EDSR x2, trained dense, then pruned by each method.

Every arm of a seed starts from the same dense network, which is trained once and kept as a file. The dense arm trains
on for as many steps as the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.nm_recipe import Figure, Recipe, Schedule
from benchmarks.nm_training import fit
from bitwright.foundation.files import atomic_path
from bitwright.foundation.progress import note
from compress.layer_table import LayerRow
from compress.sparsity import METHODS, Phases, SparseTraining
from compress.training.samples import Pairs
from workloads.super_resolution.bicubic import upscale
from workloads.super_resolution.models.edsr import DIV2K_MEAN, EDSR, EDSRConfig
from workloads.super_resolution.network_format import to_network
from workloads.super_resolution.task import SRSamples, SuperResolution
from workloads.super_resolution.training_data import PatchDataset

SETS = ("Set5", "Set14")
PATCH = 24
"""Side of a training patch, LR pixels."""
LEAST_GAIN = 2.0
"""dB of the dense network over bicubic on the first test set, below which a comparison does not count."""
ENDLESS = 2**62
START_SEEDS = 1_000_000
"""Seeds from here on are those of dense networks."""


class SmallEDSR(Recipe):
    """EDSR of 32 channels and 8 blocks. `data_root` holds sr/; `work`: where dense networks are kept.

    `start_steps`: of the dense training. `images`: of each test set at most.
    """

    name: ClassVar[str] = "sr"
    title: ClassVar[str] = "super-resolution x2, EDSR of 32 channels and 8 blocks"
    figures: ClassVar[tuple[Figure, ...]] = tuple(Figure(name, f"{name} PSNR-Y dB", 3) for name in SETS)
    patterns: ClassVar[tuple[str, ...]] = ("2:4", "8:32", "4:32", "2:32", "1:32")
    methods: ClassVar[tuple[str, ...]] = (
        "dense", "one_shot", "ste", "sr_ste", "sr_ste_frozen", "mdgf_linear", "mdgf_exponential", "mdgf_linear_ste",
        "mdgf_exponential_ste", "sdgf_stepwise", "sdgf_geometric", "sls",
    )  # fmt: skip

    def __init__(self, data_root: Path, work: Path, start_steps: int | None = None, images: int | None = None) -> None:
        self.folder, self.work, self.images = data_root / "sr", work, images
        self.config = EDSRConfig(scale=2, width=32, blocks=8, value_max=1.0)
        self.workload = SuperResolution(self.network().io)
        # The dense network has its training behind it: masks are taken at once.
        self.schedule = Schedule(steps=10_000, batch=16, rate=2e-4, weight_decay=0.0, one_shot_dense=0.0)
        self.first = replace(self.schedule, steps=start_steps or 20_000, rate=1e-3, warm_up=0.02, clip=0.5)

    def network(self) -> EDSR:
        """EDSR with the mean colour taken off and put back by layers that are not trained."""
        made = EDSR(self.config)
        for layer, sign in ((made.sub_mean, -1.0), (made.add_mean, 1.0)):
            with torch.no_grad():
                layer.weight.copy_(torch.eye(3).reshape(3, 3, 1, 1))
                assert layer.bias is not None
                layer.bias.copy_(sign * torch.tensor(DIV2K_MEAN))
            layer.requires_grad_(False)
        return made

    def example(self) -> Tensor:
        """A photograph's centre."""
        return self.workload.example_input(PATCH, PATCH)

    def kept_dense(self, rows: Sequence[LayerRow]) -> Iterable[str]:
        """The layer that makes the picture; it stands ahead of the one that puts the mean colour back."""
        return ["tail.1"]

    @cached_property
    def _pictures(self) -> PatchDataset:
        folders = [path for path in sorted((self.folder / "train").iterdir()) if path.is_dir()]
        return PatchDataset(folders, self.workload.io, PATCH, ENDLESS)

    def pairs(self, seed: int) -> Pairs:
        """Patches of all training pictures, turned and mirrored."""
        return self._pictures.part(range(self._pictures.pictures), seed)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean absolute error."""
        return self.workload.loss(output, target)

    def start(self, seed: int) -> nn.Module:
        """The dense network of the seed, trained where it was not before."""
        torch.manual_seed(seed)
        model = self.network().to(self.device)
        made = f"{self.first.steps}-{self.schedule.batch}-{self.device.type}-{seed}"
        path = self.work / f"dense-{made}.safetensors"
        if path.is_file():
            model.load_state_dict(load_file(path))
            return model
        note(f"training the dense network of seed {seed}")
        training = SparseTraining(model, {}, METHODS["dense"], Phases(self.first.steps))
        # Another data order than that of the arms.
        fit(self, model, training, START_SEEDS + seed, self.first)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            save_file({name: value.cpu().contiguous() for name, value in model.state_dict().items()}, temporary)
        return model

    @cached_property
    def _tests(self) -> dict[str, SRSamples]:
        return {name: self.workload.samples(self.folder / "test" / name, self.images) for name in SETS}

    def score(self, model: nn.Module) -> dict[str, float]:
        """PSNR-Y on each test set."""
        predict = self.predict(model)
        return {name: self.workload.evaluate(predict, samples).mean for name, samples in self._tests.items()}

    def bicubic(self) -> dict[str, float]:
        """PSNR-Y of bicubic enlargement on each test set."""
        found = {}
        for name, samples in self._tests.items():
            values = [
                self.workload.psnr_y(to_network(upscale(sample.lr, self.workload.io.scale), self.workload.io), sample)
                for sample in samples
            ]
            found[name] = sum(values) / len(values)
        return found

    def described(self) -> str:
        """Batch, steps of the dense network and test images."""
        return f"{super().described()}-{self.first.steps}-{self.images or 'all'}"

    def remarks(self, results: Sequence[Mapping[str, Any]]) -> list[str]:
        """What the dense network gains over bicubic, and whether the comparison counts."""
        first = SETS[0]
        plain = self.bicubic()[first]
        dense = [r["score"][first] for r in results if r["method"] == "dense"]
        start = f"All arms start from a dense network of {self.first.steps} steps."
        if not dense:
            return [f"{start} No dense arm was trained: what dense gains over bicubic ({plain:.2f} dB) is not known."]
        gain = sum(dense) / len(dense) - plain
        verdict = (
            "the comparison counts" if gain >= LEAST_GAIN
            else f"**below {LEAST_GAIN:g} dB: the comparison does not count**"
        )  # fmt: skip
        return [f"{start} Dense gains {gain:.2f} dB over bicubic ({plain:.2f} dB) on {first}: {verdict}."]
