"""Methods against autograd: what each multiplies forward, and what the optimiser receives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from bitwright.foundation.errors import UsageError
from compress.nm_pattern import Sparsity
from compress.sparsity.action import Action
from compress.sparsity.methods import METHODS, Pulled, SparseRefined, StraightThrough
from compress.sparsity.schedules import Phases
from compress.sparsity.sparse_weight import SparseWeight
from compress.sparsity.step_adam import StepAdam
from compress.sparsity.training import Restrict, SparseTraining, forget, remask

PATTERN = Sparsity(n=1, m=4)
PHASES = Phases(40, dense=0.1, fine_tune=0.25)


def setup(name: str, **more: object) -> tuple[nn.Linear, SparseTraining, Tensor]:
    torch.manual_seed(0)
    layer = nn.Linear(8, 5)
    training = SparseTraining(layer, {"": PATTERN}, METHODS[name], PHASES, **more)
    return layer, training, torch.randn(6, 8)


def gradients(layer: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor]:
    """(gradient that W receives, G of the forward weight), of a loss that is not linear in the weight."""
    layer.zero_grad()
    master = layer.parametrizations["weight"].original
    effective = layer.weight
    effective.retain_grad()
    loss = nn.functional.linear(x, effective, layer.bias).square().sum()
    torch.autograd.backward(loss)
    assert effective.grad is not None
    return master.grad, effective.grad


EXPECTED: dict[str, tuple[Callable[[Tensor, float], Tensor], Callable[[Tensor, float], Tensor]]] = {
    "dense": (lambda m, b: torch.ones_like(m), lambda m, b: torch.ones_like(m)),
    "one_shot": (lambda m, b: m, lambda m, b: m),
    "ste": (lambda m, b: m, lambda m, b: torch.ones_like(m)),
    "sr_ste": (lambda m, b: m, lambda m, b: torch.ones_like(m)),
    "mdgf_linear": (lambda m, b: m + b * (1 - m), lambda m, b: m + b * (1 - m)),
    "mdgf_exponential": (lambda m, b: m + b * (1 - m), lambda m, b: m + b * (1 - m)),
    "mdgf_linear_ste": (lambda m, b: m + b * (1 - m), lambda m, b: torch.ones_like(m)),
    "sdgf_stepwise": (lambda m, b: m, lambda m, b: torch.ones_like(m)),
    "sdgf_stepwise_hard": (lambda m, b: m, lambda m, b: m),
    "sdgf_geometric_hard": (lambda m, b: m, lambda m, b: m),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_forward_weight_and_gradient_are_those_of_the_table(name: str) -> None:
    layer, training, x = setup(name)
    step = 15
    training.begin(step)
    action = training.action(training.layers[""], step)
    assert 0.0 <= action.beta < 1.0
    received, g = gradients(layer, x)
    forward, backward = EXPECTED[name]
    mask = training.layers[""].mask.float()
    master = training.layers[""].master
    torch.testing.assert_close(layer.weight, forward(mask, action.beta) * master)
    torch.testing.assert_close(received, backward(mask, action.beta) * g)
    if name in ("mdgf_linear", "mdgf_linear_ste"):
        assert action.beta == pytest.approx(1 - (11 / 26) / 0.8)
    if name == "sdgf_stepwise":
        assert action.pattern == Sparsity(n=2, m=4)
        assert mask.sum().item() == 20


@pytest.mark.parametrize("name", ["mdgf_exponential", "sdgf_stepwise_hard", "one_shot"])
def test_restricted_gradients_equal_finite_differences(name: str) -> None:
    layer, training, x = setup(name)
    training.begin(12)
    layer.double()
    x = x.double()
    received, _ = gradients(layer, x)
    master = training.layers[""].master
    for index in ((0, 0), (1, 3), (4, 7), (2, 2)):
        values = []
        for shift in (1e-6, -1e-6):
            with torch.no_grad():
                master[index] += shift
                values.append(float(layer(x).square().sum()))
                master[index] -= shift
        assert float(received[index]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", ["sr_ste", "sr_mdgf_exponential", "sr_sdgf_stepwise"])
def test_the_pull_is_added_to_the_gradient_of_pruned_weights_only(name: str) -> None:
    layer, training, x = setup(name)
    training.begin(15)
    received, _ = gradients(layer, x)
    before = received.clone()
    training.after_backward()
    mask, master = training.layers[""].mask, training.layers[""].master
    torch.testing.assert_close(received, before + 2e-4 * master.detach() * (~mask))
    assert bool((received != before)[~mask].any())
    assert torch.equal(received[mask], before[mask])
    # W <- W - eta (G + lambda (1 - m) W): with G = 0, pruned weights shrink.
    assert bool(((received - before) * master)[~mask].min() > 0)


def test_a_published_straight_through_mask_moves_to_the_end_and_a_frozen_one_does_not() -> None:
    for frozen in (False, True):
        torch.manual_seed(0)
        layer = nn.Linear(8, 5)
        training = SparseTraining(layer, {"": PATTERN}, StraightThrough(freezes=frozen), PHASES)
        training.begin(PHASES.end)
        before = training.layers[""].mask.clone()
        with torch.no_grad():
            training.layers[""].master.mul_(-1).add_(torch.randn(5, 8))
        training.begin(PHASES.end + 1)
        assert torch.equal(training.layers[""].mask, before) is frozen


def run(name: str, steps: range, model: nn.Module, training: SparseTraining, optimizer: torch.optim.Optimizer) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 16, generator=generator)
        training.begin(step, optimizer)
        optimizer.zero_grad()
        torch.autograd.backward((model(x) - x[:, :8].square()).square().mean())
        training.after_backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        training.after_step(optimizer)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8))


def made(name: str, period: int = 1) -> tuple[nn.Sequential, SparseTraining, torch.optim.Optimizer]:
    model = network()
    training = SparseTraining(model, {"0": PATTERN, "2": Sparsity(n=1, m=8)}, METHODS[name], PHASES, period=period)
    return model, training, torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("period", [1, 4])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(name: str, period: int) -> None:
    whole, training, optimizer = made(name, period)
    run(name, range(40), whole, training, optimizer)
    for cut in (3, 17, 31):
        first, training, optimizer = made(name, period)
        run(name, range(cut), first, training, optimizer)
        saved, moments = {k: v.clone() for k, v in first.state_dict().items()}, optimizer.state_dict()
        second, training, optimizer = made(name, period)
        second.load_state_dict(saved)
        optimizer.load_state_dict(moments)
        run(name, range(cut, 40), second, training, optimizer)
        for key, value in whole.state_dict().items():
            assert torch.equal(value, second.state_dict()[key]), (cut, key)


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd", "step_adam"])
@pytest.mark.parametrize("name", ["mdgf_exponential", "sdgf_stepwise", "sr_ste_frozen", "one_shot"])
def test_fixed_mask_keeps_weights_and_moments_at_zero(name: str, kind: str) -> None:
    """Trap: momentum, coupled decay and a mask that still moves in "fine-tuning" bring pruned weights back."""
    model = network()
    training = SparseTraining(model, {"0": PATTERN, "2": PATTERN}, METHODS[name], PHASES)
    optimizer: torch.optim.Optimizer = {
        "adam": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=0.1),
        "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, amsgrad=True),
        "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, weight_decay=0.1),
        "step_adam": lambda p: StepAdam(p, lr=1e-2, weight_decay=0.1),
    }[kind](model.parameters())
    run(name, range(PHASES.end), model, training, optimizer)
    masks: dict[str, Tensor] = {}
    for step in range(PHASES.end, PHASES.total):
        run(name, range(step, step + 1), model, training, optimizer)
        for key, layer in training.layers.items():
            assert torch.equal(layer.mask, masks.setdefault(key, layer.mask.clone()))
            assert not layer.master[~layer.mask].any()
            for value in optimizer.state[layer.master].values():
                if isinstance(value, Tensor) and value.shape == layer.mask.shape:
                    assert not value[~layer.mask].any()
    found = training.finish()
    assert all(int(m.view(8 if k == "2" else 32, -1, 4).sum(2).max()) == 1 for k, m in found.items())
    assert not model[0].weight[~found["0"]].any()
    assert isinstance(model[0].weight, nn.Parameter)


def test_momentum_regrows_what_is_not_forgotten() -> None:
    """The hygiene is needed: without it one step of Adam moves pruned weights off zero."""
    weight = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    weight.grad = torch.ones(4)
    optimizer.step()
    mask = torch.tensor([True, True, False, False])
    for forgets in (False, True):
        with torch.no_grad():
            weight.masked_fill_(~mask, 0.0)
        if forgets:
            forget(optimizer, weight, mask)
        weight.grad = torch.tensor([1.0, 1.0, 0.0, 0.0])
        optimizer.step()
        assert bool(weight[~mask].any()) is not forgets


def test_evaluation_while_decaying_is_hard_masked() -> None:
    """Trap: a model evaluated with its soft mask is not the one that is exported."""
    for name in ("mdgf_exponential", "sdgf_stepwise"):
        layer, training, x = setup(name)
        training.begin(6)
        soft, mask = layer(x), training.layers[""].mask.clone()
        with training.hard_masked():
            assert int((layer.weight != 0).sum()) == 10
            hard = layer(x)
        assert not torch.allclose(soft, hard)
        assert torch.equal(layer(x), soft)
        assert torch.equal(training.layers[""].mask, mask)


def test_a_method_without_freeze_is_masked_at_the_end() -> None:
    layer, training, _ = setup("ste")
    training.begin(39)
    training.finish()
    assert int((layer.weight != 0).sum()) == 10
    dense, training, _ = setup("dense")
    training.begin(39)
    assert training.finish() == {}
    assert int((dense.weight != 0).sum()) == 40


def test_each_layer_keeps_its_own_pattern() -> None:
    """Trap: a configuration that layers share lets one layer's N:M overwrite another's."""
    model = network()
    training = SparseTraining(model, {"0": Sparsity(n=1, m=8), "2": Sparsity(n=1, m=4)}, METHODS["ste"], PHASES)
    training.begin(10)
    assert training.masks()["0"].float().mean().item() == pytest.approx(1 / 8)
    assert training.masks()["2"].float().mean().item() == pytest.approx(1 / 4)


@pytest.mark.parametrize("name", METHODS)
def test_bias_takes_part_and_every_layer_kind_trains(name: str) -> None:
    """Trap: a sparse layer that ignores its bias; layer kinds that raise in one method only."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1), nn.ConvTranspose2d(8, 8, 2, groups=2), nn.Conv2d(8, 8, 1, bias=False)
    )
    training = SparseTraining(model, dict.fromkeys("012", PATTERN), METHODS[name], PHASES)
    for step in (0, 12, 35):
        training.begin(step)
        model.zero_grad()
        torch.autograd.backward(model(torch.randn(2, 8, 4, 4)).square().sum())
        assert model[0].bias.grad is not None
        assert float(model[0].bias.grad.abs().sum()) > 0
    before = model(torch.zeros(1, 8, 4, 4))
    with torch.no_grad():
        model[0].bias.add_(1.0)
    assert not torch.equal(model(torch.zeros(1, 8, 4, 4)), before)


def test_mask_and_share_stay_in_float32_under_autocast() -> None:
    layer, training, x = setup("mdgf_exponential")
    training.begin(8)
    exact = layer.weight.clone()
    with torch.autocast("cpu", torch.bfloat16):
        assert training.layers[""].sparse.soft().dtype is torch.float32
        assert torch.equal(layer.weight, exact)
        assert layer(x).dtype is torch.bfloat16


def test_the_parametrisation_traces_into_one_graph() -> None:
    """Plain arithmetic only: torch.compile's front end takes it whole, and a new beta makes no new graph."""
    sparse = SparseWeight(torch.zeros(4, 8))
    sparse.set(Action(PATTERN, beta=0.5, restricted=True))
    counted = CompileCounter()
    compiled = torch.compile(sparse, backend=counted, fullgraph=True)
    weight = torch.randn(4, 8)
    for beta in (0.5, 0.25, 0.0):
        sparse.set(Action(PATTERN, beta=beta, restricted=True))
        torch.testing.assert_close(compiled(weight), weight * sparse.soft())
    assert counted.frame_count == 1


def test_step_adam_is_adamw() -> None:
    torch.manual_seed(0)
    start = torch.randn(7, 3)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    a = StepAdam([ours], lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)
    b = torch.optim.AdamW([theirs], lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)
    for _ in range(20):
        gradient = torch.randn(7, 3)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        a.step()
        b.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_adam_cancels_a_restricted_gradient_and_restricting_updates_does_not() -> None:
    """Trap: a gradient scaled by a constant beta gives Adam's full step; restrict=update scales the step itself."""
    moved = {}
    for restrict in Restrict:
        torch.manual_seed(0)
        layer = nn.Linear(8, 5)
        training = SparseTraining(layer, {"": PATTERN}, METHODS["mdgf_exponential"], Phases(10**6), restrict=restrict)
        optimizer = StepAdam(layer.parameters(), lr=1e-4, weight_decay=0.0)
        step = Phases(10**6).end // 2
        sparse = training.layers[""]
        begun = sparse.master.detach().clone()
        x = torch.randn(64, 8)
        for i in range(5):
            training.begin(step + i, optimizer)
            optimizer.zero_grad()
            torch.autograd.backward(layer(x).square().sum())
            optimizer.step()
        change = (sparse.master.detach() - begun).abs()
        moved[restrict] = float(change[~sparse.mask].mean() / change[sparse.mask].mean())
    beta = 0.0498
    assert moved[Restrict.GRAD] > 0.5
    assert moved[Restrict.UPDATE] == pytest.approx(beta, rel=0.5)
    with pytest.raises(UsageError, match="StepAdam"):
        training.begin(step, torch.optim.AdamW(layer.parameters()))


def test_second_moment_stands_after_it_is_frozen() -> None:
    weight = nn.Parameter(torch.zeros(5))
    optimizer = StepAdam([weight], lr=0.01, betas=(0.9, 0.9), freeze_v_at=12)
    for step in range(20):
        weight.grad = torch.full((5,), 1.0 if step < 12 else 100.0)
        optimizer.step()
    assert optimizer.state[weight]["exp_avg_sq"].tolist() == pytest.approx([1 - 0.9**12] * 5)
    auto = StepAdam([weight], lr=0.01, betas=(0.9, 0.9), freeze_v_at="auto", threshold=0.01)
    frozen_at = None
    for step in range(200):
        weight.grad = torch.ones(5)
        auto.step()
        if auto.param_groups[0]["frozen"] and frozen_at is None:
            frozen_at = step + 1
    # |v| = 1 - 0.9^t: between looks at 10 i and 10 (i + 1) it changes by less than 1 % from t = 40 to 50 on.
    assert frozen_at == 50
    again = StepAdam([weight], freeze_v_at="auto")
    again.load_state_dict(auto.state_dict())
    assert again.param_groups[0]["frozen"]


def test_clipping_sees_the_pull() -> None:
    """Trap: the norm that clips holds the pull as well."""
    layer, training, x = setup("sr_ste")
    training.method = SparseRefined(pull=1e6)
    training.begin(15)
    gradients(layer, x)
    plain = float(nn.utils.clip_grad_norm_(layer.parameters(), 1e9))
    training.after_backward()
    assert float(nn.utils.clip_grad_norm_(layer.parameters(), 1e9)) > 1e3 * plain


def test_averaged_weights_are_masked_again() -> None:
    masks = {"w": torch.tensor([[True, False], [False, True]])}
    averaged = {"w": torch.full((2, 2), 3.0), "b": torch.ones(2)}
    remask(averaged, masks)
    assert averaged["w"].tolist() == [[3.0, 0.0], [0.0, 3.0]]
    assert averaged["b"].tolist() == [1.0, 1.0]


def test_combinations_pull_only_where_a_mask_moves() -> None:
    combined = Pulled(METHODS["one_shot"])
    assert combined.at(0, Phases(10), PATTERN, 8).pull == 0.0
    assert combined.frozen_from(Phases(10, dense=0.5, fine_tune=0.0)) == 5


def test_layers_that_cannot_be_pruned_are_named() -> None:
    for module, text in ((nn.LayerNorm(8), "never pruned"), (nn.Linear(6, 4), "6 input channels")):
        with pytest.raises(UsageError, match=text):
            SparseTraining(nn.Sequential(module), {"0": PATTERN}, METHODS["ste"], PHASES)
    with pytest.raises(UsageError, match="no layer 'x'"):
        SparseTraining(network(), {"x": PATTERN}, METHODS["ste"], PHASES)
    with pytest.raises(UsageError, match="every 1 to 10 steps"):
        SparseTraining(network(), {}, METHODS["ste"], PHASES, period=11)
