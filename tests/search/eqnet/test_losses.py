"""The weight distribution, guidance in both tasks, and the gradient of a whole step."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bitwright.foundation.errors import UsageError
from search.eqnet.distribution import moments, shape_of
from search.eqnet.guidance import ClassGuidance, ImageGuidance, LogitDistance, Outputs
from search.eqnet.sampling import sandwich
from search.eqnet.settings import EqnetSettings
from search.eqnet.step import losses
from tests.search.eqnet.helpers import images, resnet_graph, supernet_of


def test_uniform_weights_have_the_aimed_shape() -> None:
    skewness, kurtosis = moments(torch.rand(10**6, generator=torch.Generator().manual_seed(0)))
    assert float(kurtosis) == pytest.approx(1.8, abs=0.01)
    assert float(skewness) == pytest.approx(0.0, abs=0.01)
    normal = moments(torch.randn(10**6, generator=torch.Generator().manual_seed(0)))
    assert float(normal[1]) == pytest.approx(3.0, abs=0.03)


def test_the_gradient_of_the_shape_neither_moves_nor_stretches() -> None:
    weight = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0)).double().float().requires_grad_()
    loss = shape_of([weight]).loss(0.015, 1.0)
    (gradient,) = torch.autograd.grad(loss, weight)
    size = float(gradient.norm())
    assert size > 1e-4
    assert abs(float(gradient.sum())) < 1e-4 * size
    inner = float((gradient * (weight.detach() - weight.detach().mean())).sum())
    assert abs(inner) < 1e-4 * size * float(weight.detach().norm())


def test_descent_takes_gaussian_weights_to_a_uniform_kurtosis() -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(0.05 * torch.randn(64, 64, generator=draw))
    optimizer = torch.optim.Adam([weight], lr=1e-3)
    for _ in range(300):
        optimizer.zero_grad()
        torch.autograd.backward(shape_of([weight]).loss(0.015, 1.0))
        optimizer.step()
    skewness, kurtosis = moments(weight.detach())
    assert float(kurtosis) == pytest.approx(1.8, abs=0.05)
    assert float(skewness) == pytest.approx(0.0, abs=0.02)


def test_a_constant_weight_has_a_finite_shape_and_rates_weigh_the_terms() -> None:
    weight = torch.full((300,), 0.5, requires_grad=True)
    shape = shape_of([weight])
    torch.autograd.backward(shape.loss(1.0, 1.0))
    assert weight.grad is not None
    assert torch.isfinite(weight.grad).all()
    assert float(shape.kurtosis) == pytest.approx(1.8**2)
    skewed = shape_of([torch.empty(5000).exponential_(generator=torch.Generator().manual_seed(0))])
    assert float(skewed.loss(0.015, 1.0)) == pytest.approx(
        0.015 * float(skewed.kurtosis) + float(skewed.skewness), rel=1e-5
    )
    assert EqnetSettings().kurt_rate == 0.015
    assert EqnetSettings().skew_rate == 1.0


def _logits(*seeds: int) -> list[Tensor]:
    return [torch.randn(6, 5, generator=torch.Generator().manual_seed(s), requires_grad=True) for s in seeds]


LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def test_guidance_is_forward_divergence_by_the_formula_and_stops_at_the_teacher() -> None:
    teacher, student = _logits(0, 1)
    guidance = ClassGuidance(share=0.3, temperature=2.0)
    loss = guidance.loss((student,), LABELS, guidance.teach([(teacher,)]))
    p, q = torch.softmax(teacher / 2, 1), torch.softmax(student / 2, 1)
    divergence = (p * (p.log() - q.log())).sum(1).mean() * 4
    wanted = 0.3 * divergence + 0.7 * F.cross_entropy(student, LABELS)
    assert torch.allclose(loss, wanted, rtol=1e-5)
    torch.autograd.backward(loss)
    assert teacher.grad is None
    assert student.grad is not None
    same = guidance.distance((teacher,), guidance.teach([(teacher,)]), LABELS)
    assert abs(float(same)) < 1e-6


def test_several_teachers_are_the_mean_of_their_probabilities() -> None:
    first, second = _logits(2, 3)
    lesson = ClassGuidance().teach([(first,), (second,)])
    assert torch.allclose(lesson.output, (torch.softmax(first, 1) + torch.softmax(second, 1)) / 2)
    assert not torch.allclose(lesson.output, torch.softmax((first + second) / 2, 1), atol=1e-3)


def test_squared_logits_teach_where_the_teacher_is_sure_and_shifts_of_all_do_not_matter() -> None:
    teacher, student = _logits(0, 1)
    guidance = ClassGuidance(1.0, logits=LogitDistance.SQUARED)
    lesson = guidance.teach([(teacher,), (teacher + 2.0,)])
    loss = guidance.loss((student,), LABELS, lesson)
    gap = student - teacher
    assert torch.allclose(loss, (gap - gap.mean(1, keepdim=True)).square().mean(), rtol=1e-5)
    assert torch.allclose(guidance.loss((student + 7.0,), LABELS, lesson), loss, rtol=1e-4)
    sure, near = torch.tensor([[60.0, 0.0, 0.0]]), torch.tensor([[50.0, 0.0, 0.0]], requires_grad=True)
    sizes = []
    for kind in LogitDistance:
        one = ClassGuidance(1.0, logits=kind)
        (gradient,) = torch.autograd.grad(one.distance((near,), one.teach([(sure,)]), LABELS[:1]), near)
        sizes.append(float(gradient.abs().max()))
    assert sizes[0] < 1e-12
    assert sizes[1] > 1.0


def test_the_gradient_of_a_logarithm_is_relative_to_the_loss() -> None:
    teacher, student = _logits(0, 1)
    gradients = []
    for logarithm in (False, True):
        guidance = ClassGuidance(0.5, logarithm=logarithm)
        loss = guidance.loss((student,), LABELS, guidance.teach([(teacher,)]))
        gradients.append((loss.detach(), torch.autograd.grad(loss, student)[0]))
    (plain, whole), (logarithm_of_it, relative) = gradients
    assert torch.allclose(logarithm_of_it, plain.log())
    assert torch.allclose(relative, whole / plain)


class _Scripted:
    """Stands for a network: returns given logits pass by pass."""

    def __init__(self, outputs: list[Tensor]) -> None:
        self.outputs = iter(outputs)

    def __call__(self, x: Tensor) -> Outputs:
        return (next(self.outputs),)


def _passes(outputs: list[Tensor], share: float, randoms: int = 1) -> dict[str, float]:
    supernet = supernet_of(resnet_graph(), images())
    drawn = sandwich(supernet.space, 0, 0, randoms)
    x = images(6)
    found = losses(supernet, _Scripted(outputs), ClassGuidance(share), drawn, x, LABELS, lambda loss: None)
    return {name: float(value) for name, value in found.items()}


def test_wide_teaches_random_and_random_teaches_narrow() -> None:
    high, middle, low, other = _logits(0, 1, 2, 3)
    kl = ClassGuidance(1.0)
    found = _passes([high, middle, low], 1.0)
    assert found["H"] == pytest.approx(float(F.cross_entropy(high, LABELS)))
    assert found["R1"] == pytest.approx(float(kl.distance((middle,), kl.teach([(high,)]), LABELS)))
    assert found["L"] == pytest.approx(float(kl.distance((low,), kl.teach([(middle,)]), LABELS)))
    moved = _passes([other, middle, low], 1.0)
    assert moved["L"] == found["L"]
    assert moved["R1"] != found["R1"]
    two = _passes([high, middle, other, low], 1.0, randoms=2)
    assert two["R2"] == pytest.approx(float(kl.distance((other,), kl.teach([(high,)]), LABELS)))
    assert two["L"] == pytest.approx(float(kl.distance((low,), kl.teach([(middle,), (other,)]), LABELS)))


def test_without_guidance_the_three_losses_are_the_tasks() -> None:
    outputs = _logits(0, 1, 2)
    found = _passes(outputs, 0.0)
    assert list(found) == ["H", "R1", "L"]
    for value, logits in zip(found.values(), outputs, strict=True):
        assert value == pytest.approx(float(F.cross_entropy(logits, LABELS)))


def test_gradients_of_a_step_add_up_to_that_of_the_summed_loss() -> None:
    supernet = supernet_of(resnet_graph(), images())
    supernet.eval()
    x, labels = images(6), LABELS
    guidance, drawn = ClassGuidance(0.5), sandwich(supernet.space, 1, 4, 2)
    losses(supernet, lambda v: (supernet(v),), guidance, drawn, x, labels, torch.autograd.backward)
    one_by_one = {n: p.grad.clone() for n, p in supernet.named_parameters() if p.grad is not None}
    supernet.zero_grad(set_to_none=True)
    held: list[Tensor] = []
    losses(supernet, lambda v: (supernet(v),), guidance, drawn, x, labels, held.append)
    torch.autograd.backward(torch.stack(held).sum())
    together = {n: p.grad for n, p in supernet.named_parameters() if p.grad is not None}
    assert together.keys() == one_by_one.keys()
    for name, gradient in together.items():
        assert torch.allclose(gradient, one_by_one[name], rtol=1e-3, atol=1e-6), name
    used = {n.rpartition(".")[2] for n in together if ".log_scale." in n}
    assert used < {n.rpartition(".")[2] for n, _ in supernet.named_parameters() if ".log_scale." in n}


def test_image_guidance_is_the_marked_adaptation() -> None:
    draw = torch.Generator().manual_seed(0)
    target, student = (torch.rand(3, 1, 6, 6, generator=draw) for _ in range(2))
    teacher = target + 0.05 * torch.randn(3, 1, 6, 6, generator=draw)
    plain = ImageGuidance(0.5)
    lesson = plain.teach([(teacher,)])
    found = plain.loss((student,), target, lesson)
    assert torch.allclose(found, 0.5 * F.l1_loss(student, target) + 0.5 * F.l1_loss(student, teacher))
    assert torch.allclose(plain.loss((student,), target, None), F.l1_loss(student, target))
    width = (teacher - target).abs().mean()
    gap = (student - teacher).abs()
    laplace = ImageGuidance(0.5, laplace=True).distance((student,), lesson, target)
    assert torch.allclose(laplace, (gap + width * (torch.exp(-gap / width) - 1)).mean())
    worse = teacher.clone()
    worse[0] += 10.0
    gated = ImageGuidance(0.5, gate=True)
    distance = gated.distance((student,), gated.teach([(worse,)]), target)
    assert torch.allclose(distance, gap.flatten(1).mean(1)[1:].sum() / 3)


def test_a_choice_that_is_new_changes_no_training_that_does_not_make_it() -> None:
    described = {k: v for k, v in asdict(EqnetSettings()).items() if k not in {"log_every", "save_seconds", "workers"}}
    del described["logits"]
    before = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    assert EqnetSettings().fingerprint() == before
    assert EqnetSettings(logits=LogitDistance.SQUARED).fingerprint() != before


def test_only_the_papers_losses_have_its_name() -> None:
    assert EqnetSettings().label(images=False) == "EQ-Net"
    for ours in (EqnetSettings.for_classes().label(images=False), EqnetSettings.for_images().label(images=True)):
        assert ours == "EQ-Net-style (adapted)"
    assert "adapted" in EqnetSettings().label(images=True)


def test_features_are_compared_by_their_energy_over_positions() -> None:
    draw = torch.Generator().manual_seed(0)
    image, s, t = torch.rand(2, 1, 4, 4), *(torch.randn(2, 3, 4, 4, generator=draw) for _ in range(2))
    guidance = ImageGuidance(1.0, feature_weight=0.7)
    lesson = guidance.teach([(image, t)])
    maps = [x.square().sum(1).flatten(1) for x in (s, t)]
    unit = [m / m.norm(dim=1, keepdim=True) for m in maps]
    wanted = 0.7 * (unit[0] - unit[1]).norm(dim=1).mean()
    assert torch.allclose(guidance.distance((image, s), lesson, image), wanted, rtol=1e-5)
    assert float(guidance.distance((image, 3 * t), lesson, image)) < 1e-5


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="share is a share"):
        EqnetSettings(share=1.5)
    with pytest.raises(UsageError, match="steps must be at least 1"):
        EqnetSettings(steps=0)
    assert EqnetSettings(log_every=3).fingerprint() == EqnetSettings().fingerprint()
    assert EqnetSettings(share=0.4).fingerprint() != EqnetSettings().fingerprint()
