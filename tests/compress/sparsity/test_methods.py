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
from compress.sparsity.training import SparseTraining
from tests.compress.sparsity.method_helpers import PATTERN, PHASES, gradients, network, setup

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
    # The mask that one-shot pruning keeps is the one of the first step with a mask.
    training.begin(PHASES.start)
    training.begin(step)
    action = training.action(training.layers[""], step)
    assert 0.0 <= action.beta < 1.0
    received, g = gradients(layer, x)
    forward, backward = EXPECTED[name]
    mask = training.layers[""].mask.float()
    assert bool(mask.all()) is (name == "dense")
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
    training.begin(PHASES.start)
    training.begin(12)
    assert not bool(training.layers[""].mask.all())
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


def test_clipping_sees_the_pull() -> None:
    """Trap: the norm that clips holds the pull as well."""
    layer, training, x = setup("sr_ste")
    training.method = SparseRefined(pull=1e6)
    training.begin(15)
    gradients(layer, x)
    plain = float(nn.utils.clip_grad_norm_(layer.parameters(), 1e9))
    training.after_backward()
    assert float(nn.utils.clip_grad_norm_(layer.parameters(), 1e9)) > 1e3 * plain


def test_combinations_pull_only_where_a_mask_moves() -> None:
    combined = Pulled(METHODS["one_shot"])
    assert combined.at(0, Phases(10), PATTERN, 8).pull == 0.0
    assert combined.frozen_from(Phases(10, dense=0.5, fine_tune=0.0)) == 5


def test_layers_that_cannot_be_pruned_are_named() -> None:
    for module, text in ((nn.LayerNorm(8), "never pruned"), (nn.Linear(1, 4), "1 input channels are fewer")):
        with pytest.raises(UsageError, match=text):
            SparseTraining(nn.Sequential(module), {"0": PATTERN}, METHODS["ste"], PHASES)
    with pytest.raises(UsageError, match="no layer 'x'"):
        SparseTraining(network(), {"x": PATTERN}, METHODS["ste"], PHASES)
    with pytest.raises(UsageError, match="every 1 to 10 steps"):
        SparseTraining(network(), {}, METHODS["ste"], PHASES, period=11)
