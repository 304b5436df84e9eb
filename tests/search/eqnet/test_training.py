"""Training: resumed, among processes, in low precision; and batch norms calibrated for a subnet."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from bitwright.foundation.errors import UsageError
from compress.graph import capture
from compress.training.processes import Processes, processes
from compress.training.samples import batches
from search.eqnet.distribution import shape_of
from search.eqnet.forms import FORMS
from search.eqnet.guidance import ImageGuidance
from search.eqnet.norms import Calibrator, recalibrate
from search.eqnet.sampling import sandwich
from search.eqnet.settings import EqnetSettings, Guide
from search.eqnet.supernet import Supernet, trainable_graph
from search.eqnet.trainer import WDR_SCALE, Trainer, values_digest
from tests.search.eqnet.helpers import SIDE, images, resnet_graph, sr_graph, supernet_of

ALONE = Processes(0, 1, torch.device("cpu"))
SETTINGS = EqnetSettings(steps=4, batch=4, log_every=1, save_seconds=0.0)


class Coloured(Dataset[tuple[Tensor, Tensor]]):
    """Noise of a brightness that tells its class; item i is a function of i."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(index)
        label = index % 10
        return torch.randn(3, SIDE, SIDE, generator=draw) * 0.3 + (label - 4.5) / 3, torch.tensor(label)


class Enlarged(Dataset[tuple[Tensor, Tensor]]):
    """Noise and its nearest enlargement by 2."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        low = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(index))
        return low, low.repeat_interleave(2, 1).repeat_interleave(2, 2)


def _trainer(path: Path | None = None, **changes: object) -> Trainer:
    settings = dataclasses.replace(SETTINGS, **changes)
    return Trainer(supernet_of(resnet_graph(), images()), Coloured(), settings, ALONE, images=False, path=path)


def _same(first: Supernet, second: Supernet) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


def test_the_digest_of_a_supernet_is_that_of_its_values(tmp_path: Path) -> None:
    """A network with norms has counters without a dimension; the time of a training is not in the digest."""
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    _trainer(first).run()
    _trainer(again).run()
    _trainer(other, seed=1).run()
    assert first.read_bytes() != again.read_bytes()
    assert values_digest(first) == values_digest(again) != values_digest(other)


def test_a_stopped_training_ends_where_the_uninterrupted_one_does(tmp_path: Path) -> None:
    whole = _trainer()
    wanted = whole.run()

    class StopError(Exception):
        pass

    def stop(entry: dict[str, float]) -> None:
        if entry["step"] == 3:
            raise StopError

    with pytest.raises(StopError):
        _trainer(tmp_path / "state").run(stop)
    resumed = _trainer(tmp_path / "state")
    position = resumed.run()
    assert position.step == 4
    assert [e["step"] for e in position.history] == [1, 2, 3, 4]
    assert [e["L"] for e in position.history] == [e["L"] for e in wanted.history]
    assert _same(resumed.supernet, whole.supernet)
    assert not _same(whole.supernet, supernet_of(resnet_graph(), images()))
    with pytest.raises(UsageError, match="another network, plan or settings"):
        _trainer(tmp_path / "state", share=0.2).run()


def test_scales_that_no_step_drew_are_those_of_the_start() -> None:
    start = supernet_of(resnet_graph(), images(), bits=(2, 3, 4, 5, 6, 7, 8))
    before = {n: p.detach().clone() for n, p in start.named_parameters()}
    trainer = Trainer(start, Coloured(), dataclasses.replace(SETTINGS, steps=2), ALONE, images=False)
    trainer.run()
    scales = [n for n in before if ".log_scale." in n]
    kept = [n for n in scales if torch.equal(before[n], trainer.parameters[n])]
    assert 0.4 * len(scales) < len(kept) < len(scales)
    assert all(p.grad is None for n, p in trainer.parameters.items() if n in kept)


def test_training_learns_and_pulls_weights_towards_uniform() -> None:
    trainer, free = (_trainer(steps=24, batch=16, weight_rate=3e-3, kurt_rate=k, skew_rate=k) for k in (1.0, 0.0))
    history = trainer.run().history
    for name in ("H", "R1"):
        early, late = (sum(e[name] for e in part) / 5 for part in (history[:5], history[-5:]))
        assert late < 0.98 * early, name
    assert {e["one_form"] for e in history} == {0.0, 1.0}
    assert "kurtosis" not in free.run().history[0]
    shapes = [shape_of(made.shaped).loss(1.0, 1.0) for made in (trainer, free)]
    assert float(shapes[0].detach()) < 0.5 * float(shapes[1].detach())


def test_a_layer_may_be_named_as_the_parts_of_a_quantiser_are() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset, self.log_scale, self.last = (nn.Conv2d(3, 3, 1) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.log_scale(self.offset(x).relu()).relu())

    graph = trainable_graph(capture(Named().eval(), images(1)))
    settings = dataclasses.replace(SETTINGS, weight_rate=1e-3, scale_rate=2e-3, offset_rate=4e-3)
    trainer = Trainer(supernet_of(graph, images()), Enlarged(), settings, ALONE, images=True)
    rates = {id(p): g["lr"] for g in trainer.optimizer.param_groups for p in g["params"]}
    assert {rates[id(p)] for p in trainer.supernet.layer_weights().values()} == {settings.weight_rate}
    quantiser = next(iter(trainer.supernet.weights.values()))
    assert {rates[id(p)] for p in quantiser.log_scale.values()} == {settings.scale_rate}
    assert {rates[id(p)] for p in quantiser.offset.values()} == {settings.offset_rate}


def test_relative_rates_go_with_the_size_of_each_layers_weights() -> None:
    """Trap: one rate for all moves the small weights of a last layer by half a percent a step and others not at all."""
    supernet = supernet_of(sr_graph(), torch.rand(2, 3, SIDE, SIDE))
    settings = dataclasses.replace(SETTINGS, relative=True, weight_rate=0.01)
    trainer = Trainer(supernet, Enlarged(), settings, ALONE, images=True)
    rates = {id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    for layer in supernet.space.layers:
        weight = trainer.parameters[f"graph.{layer.weight}"]
        assert rates[id(weight)] == pytest.approx(0.01 * float(weight.detach().square().mean().sqrt()))
        assert rates[id(trainer.parameters[f"graph.{layer.weight.removesuffix('weight')}bias"])] == rates[id(weight)]
    others = {rates[id(p)] for n, p in trainer.parameters.items() if ".log_scale." in n}
    assert others == {settings.scale_rate}


def test_the_rate_ends_at_zero_with_the_last_step_whatever_the_number_of_processes() -> None:
    trainer = _trainer(steps=4)
    x, y = (torch.stack(p) for p in zip(*[Coloured()[i] for i in range(4)], strict=True))
    seen = []
    for number in range(4):
        trainer.step(x, y, number)
        seen.append(max(group["lr"] for group in trainer.optimizer.param_groups))
    assert seen[0] == max(trainer.rates)
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < 0.2 * seen[0]
    with pytest.raises(UsageError, match="cannot be divided equally"):
        Processes(0, 3, torch.device("cpu")).share(SETTINGS.batch)


def test_images_are_trained_with_the_regulariser_at_its_share_of_the_task() -> None:
    settings = dataclasses.replace(
        EqnetSettings.for_images(), steps=2, batch=2, log_every=1, feature_weight=0.1, kurt_rate=0.015, skew_rate=1.0
    )
    trainer = Trainer(supernet_of(sr_graph(), images().sigmoid()), Enlarged(), settings, ALONE, images=True)
    assert len(trainer.shaped) == 1
    position = trainer.run()
    scale = position.values[WDR_SCALE]
    assert scale > 0
    assert scale != 1.0
    assert all(torch.isfinite(torch.tensor(list(e.values()))).all() for e in position.history)
    fresh = Trainer(supernet_of(sr_graph(), images().sigmoid()), Enlarged(), settings, ALONE, images=True)
    x, y = (torch.stack(p) for p in zip(*[Enlarged()[i] for i in range(2)], strict=True))
    assert fresh._balanced(x, y, 0.1) == pytest.approx(2 * fresh._balanced(x, y, 0.05))


def test_low_precision_runs_the_convolutions_in_bf16_only() -> None:
    exact, low = _trainer(steps=2).run().history, _trainer(steps=2, amp=True).run().history
    assert low[0]["H"] != exact[0]["H"]
    assert low[0]["H"] == pytest.approx(exact[0]["H"], rel=0.05)
    assert low[0]["kurtosis"] == exact[0]["kurtosis"]


def test_two_processes_stay_equal_and_draw_the_same(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r}); "
    code += "from tests.search.eqnet.test_training import one_process; one_process(sys.argv[1])"
    jobs = []
    for rank in range(2):
        words = [sys.executable, "-c", code, str(tmp_path / f"{rank}.pt")]
        jobs.append(subprocess.Popen(words, env=environment | {"RANK": str(rank)}))
    assert [job.wait(timeout=240) for job in jobs] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    trained = [n for n in first if "running" not in n and "num_batches" not in n]
    assert all(torch.equal(first[n], second[n]) for n in trained)
    assert any(not torch.equal(first[n], second[n]) for n in first if "running_mean" in n)
    assert (tmp_path / "0.pt.state").is_file()
    assert not (tmp_path / "1.pt.state").exists()


def one_process(path: str) -> None:
    """What each of the two processes does."""
    torch.set_num_threads(1)
    with processes() as group:
        supernet = supernet_of(resnet_graph(), images())
        settings = dataclasses.replace(SETTINGS, steps=2)
        Trainer(supernet, Coloured(), settings, group, images=False, path=Path(f"{path}.state")).run()
    torch.save(dict(supernet.state_dict()), path)


def test_calibration_depends_on_the_subnet_alone_and_leaves_modes_as_they_were() -> None:
    supernet = supernet_of(resnet_graph(), images())
    low, high = (supernet.space.uniform(bits, FORMS[6]) for bits in (2, 8))
    supernet.train()
    supernet.graph.get_submodule("norm_batch_norm").eval()
    modes = [m.training for m in supernet.modules()]
    calibrator = Calibrator(supernet, images(24, seed=7), batch=8)
    first = calibrator.choose(low)
    assert [m.training for m in supernet.modules()] == modes
    assert all(m.momentum == 0.1 for m in supernet.modules() if isinstance(m, nn.BatchNorm2d))
    other = Calibrator(supernet, images(24, seed=7), batch=8)
    other.choose(high)
    again = other.choose(low)
    for name, (mean, variance) in first.items():
        assert torch.equal(mean, again[name][0])
        assert torch.equal(variance, again[name][1])
    assert not torch.equal(first["batch_norm_6"][0], other.choose(high)["batch_norm_6"][0])
    assert other.taken == 2
    norm = supernet.norms["batch_norm_6"]
    assert norm.running_mean is not None
    assert torch.equal(norm.running_mean, other.choose(high)["batch_norm_6"][0])


def test_calibrated_statistics_are_means_over_the_batches() -> None:
    supernet, x = supernet_of(resnet_graph(), images()), images(24, seed=7)
    supernet.choose(supernet.space.uniform(8, FORMS[6]))
    recalibrate(supernet, x, 8)
    norm = supernet.norms["batch_norm"]
    assert norm.running_mean is not None
    first = supernet.graph.get_submodule("elastic_conv1_weight")
    weight = first(supernet.layer_weights()["conv1.weight"])
    with torch.no_grad():
        out = nn.functional.conv2d(supernet.activations["x"](x), weight, padding=1)
    means = torch.stack([part.mean((0, 2, 3)) for part in out.split(8)]).mean(0)
    assert torch.allclose(norm.running_mean, means, atol=1e-5)
    with pytest.raises(UsageError, match="at least one image"):
        Calibrator(supernet, x[:0])


def test_who_guides_a_subnet_is_a_choice() -> None:
    x, y = next(iter(batches(Enlarged(), 2, ALONE, 0, 0)))
    found = {}
    for guide in Guide:
        settings = dataclasses.replace(EqnetSettings.for_images(), batch=2, guide=guide, logarithm=False)
        trainer = Trainer(supernet_of(sr_graph(), images().sigmoid()), Enlarged(), settings, ALONE, images=True)
        found[guide] = {name: float(value) for name, value in trainer.step(x, y, 0).items()}
    supernet = supernet_of(sr_graph(), images().sigmoid())
    drawn = sandwich(supernet.space, settings.seed, 0)
    outputs = []
    with torch.no_grad():
        for one in drawn:
            supernet.choose(one.configuration)
            outputs.append(supernet(x))
        exact = supernet.template(x)
    gaps = [float((output - exact).abs().mean()) for output in outputs]
    assert found[Guide.FLOAT_FIRST]["H"] == pytest.approx(gaps[0], rel=1e-4)
    assert found[Guide.WIDER]["H"] == pytest.approx(float((outputs[0] - y).abs().mean()), rel=1e-4)
    assert found[Guide.FLOAT_FIRST]["R1"] == pytest.approx(found[Guide.WIDER]["R1"], rel=1e-4)
    assert [found[Guide.FLOAT][name] for name in ("H", "R1", "L")] == pytest.approx(gaps, rel=1e-4)
    assert found[Guide.WIDER]["L"] != pytest.approx(gaps[2], rel=1e-2)


def test_of_a_logarithm_the_gradient_is_relative_to_the_loss() -> None:
    x, y = next(iter(batches(Enlarged(), 2, ALONE, 0, 0)))
    supernet = supernet_of(sr_graph(), images().sigmoid(), bits=(2, 8))
    weight = dict(supernet.named_parameters())[f"graph.{supernet.space.layers[1].weight}"]
    for one in sandwich(supernet.space, 0, 0):
        supernet.choose(one.configuration)
        found = {}
        for logarithm in (False, True):
            guidance = ImageGuidance(share=0.0, logarithm=logarithm)
            loss = guidance.loss((supernet(x),), y, None)
            found[logarithm] = (loss.detach(), torch.autograd.grad(loss, weight)[0])
        assert torch.allclose(found[True][0], found[False][0].log())
        assert torch.allclose(found[True][1], found[False][1] / found[False][0], rtol=1e-4, atol=1e-7)
