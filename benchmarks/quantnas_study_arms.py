"""Arms of the quality study of QuantNAS: how each network is chosen; all are then trained and evaluated alike."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from bitwright.foundation.errors import OutputError
from bitwright.foundation.files import write_text
from bitwright.foundation.progress import note
from bitwright.runs.lock import FolderLock
from bitwright.runs.quantnas_bench import workload_of
from compress.training.processes import Processes
from search.quantnas import (
    Mode,
    QuantSettings,
    RetrainSettings,
    Search,
    SearchSettings,
    Sparsity,
    bitops_costs,
    derive_within,
    network_bitops,
    retrain,
)
from search.quantnas.data_split import split_by_picture
from workloads.super_resolution.models.searched import Choice, Genotype, SearchSpace
from workloads.super_resolution.task import SRSamples, SuperResolution
from workloads.super_resolution.training_data import PatchDataset

RECORD = "unit.json"
SKIP, FIXED, FIXED_SKIP = "skip", "simple_3x3", "simple_1x1"


class ArmKind(StrEnum):
    """How a network is chosen."""

    NOISE = "noise"
    """QuantNAS against noise: the method."""
    DIRECT = "direct"
    """The same with rounding in place of noise."""
    RANDOM = "random"
    """Drawn uniformly from the space, then brought below the budget as a search's result is."""
    BITS = "bits-only"
    """The fixed network with its bit widths searched against noise."""
    UNIFORM = "uniform"
    """The fixed network at one bit width."""
    NO_ENTROPY = "noise-no-entropy"
    NO_ADQ = "noise-no-adq"
    DIRECT_NO_ADQ = "direct-no-adq"


ABLATIONS = {ArmKind.NO_ENTROPY, ArmKind.NO_ADQ, ArmKind.DIRECT_NO_ADQ}
WITHOUT_ADQ = {ArmKind.NO_ADQ, ArmKind.DIRECT_NO_ADQ}


@dataclass(frozen=True)
class Unit:
    """One network of the study. `level`: the budget, as that of the fixed network at so many bits."""

    arm: ArmKind
    level: float
    seed: int

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.arm}/{self.level:g}-bit/seed-{self.seed}"


class UnitRecord(BaseModel):
    """A finished unit. BitOps are of the whole network, quality is PSNR-Y in dB, simulated in torch.

    `device`: what it was searched and trained on.
    `certainty`: mean over layers of the largest probability at the end of the search; `gap`: L1 of the supernet with
    each layer's most probable choice, less that of the mixture.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    arm: ArmKind
    level: float
    seed: int
    budget: float
    bitops: dict[str, float]
    parameters: int
    quality: dict[str, float]
    held_out: float
    best_epoch: int
    genotype: Genotype
    corrected: int
    certainty: float | None
    gap: float | None
    search_s: float
    retrain_s: float
    device: str


@dataclass(frozen=True)
class Found:
    """A genotype and how it came about."""

    genotype: Genotype
    corrected: int = 0
    certainty: float | None = None
    gap: float | None = None


def fixed_network(space: SearchSpace, bits: int, *, adq: bool) -> Genotype:
    """3x3 convolutions with 1x1 skips: the network that the space is made of, at one bit width; layers that cannot have
    it are at their narrowest.
    """
    layers = {
        site.name: Choice(_fixed_token(site.name), bits if bits in site.bits else min(site.bits))
        for site in space.wiring.sites
    }
    return Genotype.of(space, layers, adq=adq)


def bits_only(space: SearchSpace) -> SearchSpace:
    """The space with the fixed network's operation as the only candidate of each layer."""
    data = space.model_dump(by_alias=True)
    for name, layer in data["layers"].items():
        layer["candidates"] = (_fixed_token(name),)
    return SearchSpace.model_validate(data | {"name": f"{space.name}-bits", "candidates": {}})


def _fixed_token(layer: str) -> str:
    return FIXED_SKIP if SKIP in layer.split(".") else FIXED


@dataclass(frozen=True)
class Study:
    """What all units share. `train` is shared by searches and retraining; `sets`: evaluation folders by name."""

    space: SearchSpace
    search: SearchSettings
    retrain: RetrainSettings
    train: Path
    sets: Mapping[str, Path]
    images: int | None
    work: Path

    def budget(self, level: float) -> float:
        """BitOps at 32x32 of the fixed network with `level` bits in its searched layers; those with widths of their own
        have at least the narrowest of them.
        """
        table, total = bitops_costs(self.space), 0.0
        for site in self.space.wiring.sites:
            bits = max(level, min(site.bits)) if site.bits != self.space.bits else level
            dearest = float(table.costs[site.name][site.tokens.index(_fixed_token(site.name)), -1])
            total += dearest * (bits / site.bits[-1]) ** 2
        return total + table.fixed

    @cached_property
    def task(self) -> SuperResolution:
        """The task of the networks."""
        return workload_of(self.space)

    @cached_property
    def pictures(self) -> PatchDataset:
        """The training pictures, decoded once for all units of a process."""
        return self.task.training(self.train, self.retrain.patch, 0)

    @cached_property
    def samples(self) -> dict[str, SRSamples]:
        """The evaluation pictures."""
        return {name: self.task.samples(folder, self.images) for name, folder in self.sets.items()}

    def read(self, unit: Unit) -> UnitRecord | None:
        """The record of a unit, if it is finished."""
        path = self.work / unit.name / RECORD
        return UnitRecord.model_validate_json(path.read_bytes()) if path.is_file() else None

    def finished(self, unit: Unit, group: Processes) -> UnitRecord | None:
        """The record of a unit, read or made; None where another process is at it."""
        if (before := self.read(unit)) is not None:
            return before
        folder = self.work / unit.name
        folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(folder)
        try:
            lock.acquire()
        except OutputError:
            return None
        try:
            # Between the look and the lock another process may have finished it.
            if (before := self.read(unit)) is not None:
                return before
            note(f"study: {unit.name}")
            record = self._made(unit, group, folder)
            write_text(folder / RECORD, record.model_dump_json(indent=1, by_alias=True) + "\n")
            for state in folder.glob("*.safetensors"):
                state.unlink()
            return record
        finally:
            lock.release()

    def _made(self, unit: Unit, group: Processes, folder: Path) -> UnitRecord:
        started = time.monotonic()
        found = self._chosen(unit, group, folder)
        chosen_s = time.monotonic() - started
        genotype, settings = found.genotype, replace(self.retrain, seed=unit.seed)
        held_out = self.task.held_out(self.train)[: settings.checked_pictures]

        def score(network: nn.Module) -> float:
            device = next(network.parameters()).device
            return self.task.evaluate(lambda x: network(x.to(device)).cpu(), held_out).mean

        everything = self.pictures.part(range(self.pictures.pictures), unit.seed + 1)
        made = retrain(
            genotype, everything, settings, score=score, processes=group, path=folder / "retrain.safetensors"
        )
        network = made.network.to(group.device)

        def predict(x: Tensor) -> Tensor:
            enlarged: Tensor = network(x.to(group.device)).cpu()
            return enlarged

        return UnitRecord(
            arm=unit.arm, level=unit.level, seed=unit.seed, budget=self.budget(unit.level),
            bitops={f"{side}x{side}": network_bitops(genotype, side, side) for side in (32, 256)},
            parameters=sum(p.numel() for n, p in network.named_parameters() if "log_step" not in n),
            quality={name: self.task.evaluate(predict, samples).mean for name, samples in self.samples.items()},
            held_out=made.score, best_epoch=made.best_epoch, genotype=genotype, corrected=found.corrected,
            certainty=found.certainty, gap=found.gap, search_s=chosen_s, retrain_s=made.seconds,
            device=torch.cuda.get_device_name() if group.device.type == "cuda" else "cpu",
        )  # fmt: skip

    def _chosen(self, unit: Unit, group: Processes, folder: Path) -> Found:
        adq = unit.arm not in WITHOUT_ADQ
        if unit.arm is ArmKind.UNIFORM:
            return Found(fixed_network(self.space, int(unit.level), adq=adq))
        if unit.arm is ArmKind.RANDOM:
            return random_network(self.space, self.budget(unit.level), unit.seed)
        mode = Mode.DIRECT if unit.arm in {ArmKind.DIRECT, ArmKind.DIRECT_NO_ADQ} else Mode.NOISE
        settings = replace(
            self.search, adq=adq, seed=unit.seed, budget=self.budget(unit.level), quant=QuantSettings(mode=mode),
            sparsity=Sparsity.NONE if unit.arm is ArmKind.NO_ENTROPY else self.search.sparsity,
        )  # fmt: skip
        space = bits_only(self.space) if unit.arm is ArmKind.BITS else self.space
        split = split_by_picture(self.pictures, settings.share, unit.seed)
        job = Search(space, bitops_costs(space), split, settings, group, folder / "search.safetensors")
        found = job.run()
        largest = [float(alphas[-1].max()) for alphas in found.alphas.values()]
        return Found(found.genotype, found.corrected, sum(largest) / len(largest), discretisation_gap(job))


def random_network(space: SearchSpace, budget: float, seed: int) -> Found:
    """A network of the space drawn uniformly; above the budget, the least-regretted layers become cheaper.

    Gumbel logits: their argmax is uniform, and the price of cost that keeps a search's result within its budget does
    the same here.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = {
        site.name: -torch.empty(len(site.operations) * len(site.bits)).exponential_(generator=generator).log()
        for site in space.wiring.sites
    }
    table = bitops_costs(space)
    genotype, corrected = derive_within(space, logits, table, budget - table.fixed, adq=True)
    return Found(genotype, corrected)


@torch.no_grad()
def discretisation_gap(job: Search) -> float:
    """L1 on the selection pictures with each layer's most probable choice alone, less that of the mixture."""
    mixed = job.selection_loss()
    for logits in job.net.logits.values():
        hard = torch.zeros_like(logits)
        hard[logits.argmax()] = 1e4
        logits.copy_(hard)
    return job.selection_loss() - mixed
