"""The training behind a search, on real pictures, small."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from bitwright.foundation.errors import UsageError
from compress.training.processes import Processes
from search.quantnas import ActQuant
from search.quantnas.found_network import QuantisedNetwork, deployable
from search.quantnas.quant_conv import QuantConv
from search.quantnas.quantisers import HWGQ_STEPS
from search.quantnas.retrain import retrain
from search.quantnas.settings import RetrainSettings
from workloads.loading import load_checkpoint
from workloads.super_resolution.format import Color, SRFormat
from workloads.super_resolution.models.searched import Genotype, SearchedNetwork, load_space, save_network
from workloads.super_resolution.models.searched.network import ConvUnit
from workloads.super_resolution.training_data import PatchDataset

ALONE = Processes(0, 1, torch.device("cpu"))
RETRAIN = RetrainSettings(epochs=3, steps_per_epoch=4, batch=2, patch=12, rate=1e-3, log_every=1, save_seconds=0.0)


def _patches(data: Path, patch: int = 12) -> PatchDataset:
    return PatchDataset([data / "sr" / "test" / "Set5"], SRFormat(4, Color.RGB, 1.0), patch, 2**62, 0)


@pytest.fixture(scope="module")
def genotype() -> Genotype:
    return Genotype.uniform(load_space("basic").resized(width=12, cells=1), "simple_3x3", 4, adq=True)


def _closeness(data: Path) -> object:
    x, target = _patches(data, 20)[5]

    def score(network: torch.nn.Module) -> float:
        return -float((network(x[None]) - target[None]).detach().abs().mean())

    return score


def test_retraining_learns_resumes_and_keeps_its_best_epoch(genotype: Genotype, data: Path, tmp_path: Path) -> None:
    score, patches = _closeness(data), _patches(data)
    longer = dataclasses.replace(RETRAIN, steps_per_epoch=25, rate=3e-3)
    learned = retrain(genotype, patches, longer, score=score, processes=ALONE)
    last = [entry["train"] for entry in learned.history[-10:]]
    assert sum(last) / 10 < 0.8 * sum(entry["train"] for entry in learned.history[:10]) / 10
    whole = retrain(genotype, patches, RETRAIN, score=score, processes=ALONE)
    assert whole.score == pytest.approx(score(whole.network))
    calls = []

    def stopping(network: torch.nn.Module) -> float:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(network)

    path = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        retrain(genotype, patches, RETRAIN, score=stopping, processes=ALONE, path=path)
    resumed = retrain(genotype, patches, RETRAIN, score=score, processes=ALONE, path=path)
    for name, value in resumed.network.state_dict().items():
        assert torch.equal(value, whole.network.state_dict()[name]), name
    assert resumed.score == whole.score
    fewer = _patches(data).part([0, 1], 0)
    with pytest.raises(UsageError, match="another network, settings or pictures"):
        retrain(genotype, fewer, RETRAIN, score=score, processes=ALONE, path=path)


def test_all_steps_of_the_found_network_are_trained(genotype: Genotype, data: Path) -> None:
    network = QuantisedNetwork(genotype)
    network.measure_steps(torch.stack([_patches(data)[i][0] for i in range(2)]))
    start = {n: p.detach().clone() for n, p in network.named_parameters()}
    trained = retrain(genotype, _patches(data), RETRAIN, score=lambda _: 0.0, processes=ALONE).network
    steps = [n for n in start if "log_step" in n]
    assert len(steps) == 2 * sum(isinstance(m, QuantConv) for m in network.modules())
    moved = [n for n, p in trained.named_parameters() if n in steps and not torch.equal(p, start[n])]
    assert len(moved) > 0.9 * len(steps)


def test_retraining_with_fixed_activation_steps_has_none_to_learn(genotype: Genotype, data: Path) -> None:
    settings = dataclasses.replace(RETRAIN, act_quant=ActQuant.HWGQ, steps_per_epoch=25, rate=3e-3)
    made = retrain(genotype, _patches(data), settings, score=lambda _: 0.0, processes=ALONE)
    assert not any("activation.log_step" in name for name, _ in made.network.named_parameters())
    assert sum(e["train"] for e in made.history[-10:]) < 0.8 * sum(e["train"] for e in made.history[:10])
    limits = [float(unit.limit) for unit in deployable(made.network).modules() if isinstance(unit, ConvUnit)]
    assert limits == pytest.approx([15 * HWGQ_STEPS[4]] * 8)


def test_deployable_network_differs_by_the_rounding_of_activations_alone(
    genotype: Genotype, data: Path, tmp_path: Path
) -> None:
    network = retrain(genotype, _patches(data), RETRAIN, score=lambda _: 0.0, processes=ALONE).network
    plain = deployable(network)
    save_network(tmp_path / "n.safetensors", plain)
    loaded = load_checkpoint(tmp_path / "n.safetensors").module
    assert isinstance(loaded, SearchedNetwork)
    x = torch.stack([_patches(data, 20)[i][0] for i in range(2)])
    units = dict(loaded.named_modules())
    checked = 0
    with torch.no_grad():
        assert torch.equal(loaded(x), plain(x))
        for name, module in network.named_modules():
            if isinstance(module, QuantConv):
                unit = units[name]
                assert isinstance(unit, ConvUnit)
                assert len(unit.weight[0].unique()) <= 16
                values = torch.rand(1, module.spec.inputs, 6, 6) * 3 * float(unit.limit)
                step = float(unit.limit) / 15
                on_grid = (values / step).round() * step
                assert torch.allclose(unit(on_grid), module(on_grid), atol=1e-4)
                checked += 1
    assert checked == 8
