"""Traps of published N:M code and tables that no other file here has: errors that hide, and patterns that get lost."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from bitwright.foundation.errors import VerificationError
from compress.nm_pattern import Sparsity
from compress.sparsity.layouts import Axis, LayerKind, WeightLayout
from compress.sparsity.legality import check
from compress.sparsity.masks import nm_mask
from compress.sparsity.methods import METHODS
from compress.sparsity.training import SparseTraining
from deploy.onnx_sparsity import verify_nm
from hw_profiles import DType, Op, RuntimeEngine
from hw_profiles.sparsity_support import Use, work_left
from tests.compress.sparsity.method_helpers import PATTERN, PHASES
from tests.deploy.test_onnx_sparsity import PATTERNS, exported


@pytest.mark.parametrize("name", METHODS)
def test_an_error_in_a_forward_pass_is_not_hidden(name: str) -> None:
    """Trap: a bare `except` around the forward pass falls back to another call and trains something else."""
    model = nn.Sequential(nn.Linear(8, 4))
    training = SparseTraining(model, {"0": PATTERN}, METHODS[name], PHASES)
    training.begin(PHASES.start)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch.zeros(2, 7))
    if name != "dense":
        with torch.no_grad():
            training.layers["0"].master[0, 0] = float("nan")
        with pytest.raises(Exception, match="'0' hold NaN"):
            training.begin(PHASES.start)


@pytest.mark.parametrize("axis", list(Axis))
def test_both_axes_and_every_kernel_size_are_masked(axis: Axis) -> None:
    """Trap: arguments in another order than the signature has them, so that one axis or 3x3 kernels raise."""
    for shape in ((8, 8), (8, 8, 3), (8, 8, 3, 3), (8, 8, 1, 1), (8, 8, 3, 3, 3)):
        kind = LayerKind.LINEAR if len(shape) == 2 else LayerKind.CONV
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        layout = WeightLayout(kind)
        pruned = weight.masked_fill(~nm_mask(weight.abs(), PATTERN, layout, axis), 0.0)
        assert check(pruned, PATTERN, layout, axis).holds
        other = Axis.OUTPUT if axis is Axis.INPUT else Axis.INPUT
        assert not check(pruned, PATTERN, layout, other).holds


def test_a_mask_does_not_survive_the_transform_domain_of_winograd() -> None:
    """Trap: 3x3 kernels run as F(2x2, 3x3), a strong baseline whose transformed weights are dense again.

    A group's zeros would last only where all nine positions prune the same channels, which no mask here does; so the
    table promises nothing for convolutions on runtimes that transform.
    """
    torch.manual_seed(0)
    weight = torch.randn(8, 8, 3, 3)
    pattern = Sparsity.parse("2:4")
    layout = WeightLayout(LayerKind.CONV)
    pruned = weight.masked_fill(~nm_mask(weight.abs(), pattern, layout), 0.0)
    g = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]])
    transformed = g @ pruned @ g.T
    zeros = float((transformed == 0).double().mean())
    assert float((pruned == 0).double().mean()) == 0.5
    assert zeros < 0.2
    assert not check(transformed, pattern, layout).holds
    for runtime in ("onnxruntime", "openvino", "ncnn", "litert"):
        assert runtime in {engine.value for engine in RuntimeEngine}
        for dtype in DType:
            assert work_left(Use(runtime, Op.CONV, dtype, 2, 4, in_channels=512, out_channels=512)) == 1.0


@pytest.mark.parametrize("quantised", [False, True])
def test_a_file_that_is_refitted_with_dense_weights_is_refused(tmp_path: Path, quantised: bool) -> None:
    """Trap: a refit or a streamed weight brings values of another training, and the pattern is gone."""
    path = exported(tmp_path / "net.onnx", quantised=quantised)
    verify_nm(path, PATTERNS)
    file = onnx.load(path)
    held = next(i for i in file.graph.initializer if i.name.startswith("conv.weight") and len(i.dims) == 4)
    values = numpy_helper.to_array(held)
    same = np.where(values == 0, values, np.sign(values)).astype(values.dtype)
    held.CopyFrom(numpy_helper.from_array(same, held.name))
    onnx.save(file, path)
    # Other numbers at the same places are a lawful refit.
    verify_nm(path, PATTERNS)
    held.CopyFrom(numpy_helper.from_array(np.ones_like(values), held.name))
    onnx.save(file, path)
    with pytest.raises(VerificationError, match="layer conv is not 2:4: a group has 4 values"):
        verify_nm(path, PATTERNS)


def test_loading_weights_of_another_training_does_not_bring_back_what_is_fixed() -> None:
    """Trap: weights that are put in under a fixed mask carry values where nothing may be."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4))
    training = SparseTraining(model, {"0": PATTERN}, METHODS["one_shot"], PHASES)
    training.begin(PHASES.start)
    mask = training.layers["0"].mask.clone()
    state = copy.deepcopy(model.state_dict())
    dense = {k: torch.ones_like(v) if v.is_floating_point() else v for k, v in state.items()}
    model.load_state_dict(dense)
    assert torch.equal(model[0].weight != 0, mask)
    training.finish()
    assert torch.equal(model[0].weight != 0, mask)
