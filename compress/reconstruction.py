"""Reconstruction of rounding: better integers, scales and biases from a few hundred calibration crops, without labels.

The network, as a whole or block after block, is trained for a few hundred steps against the float network's outputs,
with rounding in the forward pass and straight-through gradients: the aim of AdaRound (arXiv 2004.10568) and BRECQ
(2102.05426) by the estimator of LSQ (1902.08153).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, fx, nn

from bitwright.foundation.errors import UsageError
from bitwright.foundation.progress import note, track
from compress.block_training import BlockData, State, TrainingSettings, batches, free_parameters, train_block
from compress.blocks import Block, extract, split
from compress.compressed import CompressedModel, QuantizedWeight, quantizer_name
from compress.graph import bias_name, clone, input_node, rebuild, set_tensor, tensor, weight_name
from compress.soft_rounding import IntegerBias, LearnedQuantizer, RoundedWeight, TunedBias

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class ReconstructionSettings:
    """How much is spent and what may move.

    `iterations`: steps per block; a step through all blocks costs as much as one through the network as a whole.
    `layers_per_block`: None trains the whole network against its output.
    """

    iterations: int = 350
    layers_per_block: int | None = None
    batch: int = 4
    checks: int = 7
    held_out: float = 0.2
    weight_rate: float = 0.004
    scale_rate: float = 0.0015
    zero_rate: float = 0.015
    bias_rate: float = 0.01
    tune_activations: bool = True
    tune_biases: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """UsageError names the first field out of range."""
        if self.iterations < 1 or self.batch < 1 or self.checks < 1:
            raise UsageError("reconstruction needs iterations, batch and checks of at least 1")
        if not 0.0 < self.held_out < 1.0:
            raise UsageError(f"reconstruction: held_out is a share between 0 and 1, not {self.held_out}")


def reconstruct(model: CompressedModel, inputs: Tensor, *, settings: ReconstructionSettings | None = None,
                reference: fx.GraphModule | None = None, real: fx.GraphModule | None = None,
                resume: Mapping[str, State] | None = None,
                on_block: Callable[[str, State], None] | None = None) -> CompressedModel:  # fmt: skip
    """A model whose simulated output is closer to `reference` on crops that were not trained on, or equal to `model`.

    `inputs`: calibration crops [N, C, H, W]; the last `held_out` share chooses the state that is kept. `reference`: the
    float network to match, with the nodes of `model.graph`, which is the default. A loaded model's own graph holds
    rounded weights: give it the graph that was quantised (balanced, but float), or what rounding lost stays lost.
    `real`: the float graph with the weights behind the integers, `reference` by default: of a pruned network that is to
    match a dense one, the pruned graph; its zeros stay. `on_block` receives (block name, state) several times per
    block; the last states given back as `resume` continue a killed job to the same result. `model` is not changed.
    """
    model.plan.require_integers("reconstruction")
    settings = settings or ReconstructionSettings()
    count = len(inputs) - max(1, math.ceil(len(inputs) * settings.held_out))
    if count < 1:
        raise UsageError(f"reconstruction needs at least 2 calibration crops, not {len(inputs)}")
    teacher = model.graph if reference is None else reference
    student = trainable(model, settings, teacher if real is None else real)
    blocks = split(model.graph, settings.layers_per_block)
    training = TrainingSettings(
        settings.iterations, settings.batch, settings.checks, settings.weight_rate, settings.scale_rate,
        settings.zero_rate, settings.bias_rate, settings.seed,
    )  # fmt: skip
    first = input_node(model.graph).name
    exact, rounded = {first: inputs}, {first: inputs}
    done: set[int] = set()
    for i, block in enumerate(blocks):
        part = extract(student, block)
        exact |= _run(extract(teacher, block), block, exact, settings.batch)
        data = BlockData([rounded[n] for n in block.inputs], [exact[n] for n in block.outputs])
        parameters = free_parameters(part, done)
        if parameters:
            before, after = train_block(
                part, parameters, data.slice(0, count), data.slice(count, len(inputs)), training, block.name,
                (resume or {}).get(block.name), _listener(on_block, block.name),
            )  # fmt: skip
            note(f"reconstruction of {block.name}: held-out loss {before:.3g} -> {after:.3g}")
        done |= {id(p) for p in parameters.values()}
        if i + 1 < len(blocks):
            rounded |= _run(part, block, rounded, settings.batch)
            later = {n for b in blocks[i + 1 :] for n in b.inputs}
            exact, rounded = ({n: v for n, v in kept.items() if n in later} for kept in (exact, rounded))
    result = harden(model, student)
    if len(blocks) > 1 and not _better(result, model, teacher, inputs[count:], settings.batch):
        note("reconstruction did not help on held-out crops; the model stays as it was")
        return replace(model)
    return result


def _listener(on_block: Callable[[str, State], None] | None, name: str) -> Callable[[State], None]:
    def tell(state: State) -> None:
        if on_block is not None:
            on_block(name, state)

    return tell


def _run(part: fx.GraphModule, block: Block, values: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """A block's outputs on all samples."""
    collected: list[list[Tensor]] = []
    with torch.no_grad():
        for i in track(list(batches(len(next(iter(values.values()))), size)), f"running {block.name}"):
            collected.append(part(*[values[n][i] for n in block.inputs]))
    return {name: torch.cat(parts) for name, parts in zip(block.outputs, zip(*collected, strict=True), strict=True)}


def _better(new: CompressedModel, old: CompressedModel, teacher: fx.GraphModule, held: Tensor, size: int) -> bool:
    """Whether `new` is closer to the float output than `old`."""
    with torch.no_grad():
        modules = new.simulate(), old.simulate()
        parts = [held[i] for i in batches(len(held), size)]
        errors = [sum(float(((m(x) - teacher(x)) ** 2).sum()) for x in parts) for m in modules]
    return bool(errors[0] <= errors[1])


def trainable(model: CompressedModel, settings: ReconstructionSettings, teacher: fx.GraphModule) -> fx.GraphModule:
    """The simulated network with `RoundedWeight`, `LearnedQuantizer` and `IntegerBias` in place of constants.

    Weights that are zero in `teacher` count as pruned: a loaded model no longer knows which zeros are only rounded.
    """
    module = clone(model.graph)
    nodes = {node.name: node for node in module.graph.nodes}
    for name, weight in model.weights.items():
        source = f"trained_{name.replace('.', '_')}"
        module.add_submodule(
            source, RoundedWeight(weight, _origin(weight, model, teacher, name), tensor(teacher, name) == 0)
        )
        for node in [n for n in module.graph.nodes if n.op == "get_attr" and n.target == name]:
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(module.graph.call_module(source))
    quantizers: dict[str, LearnedQuantizer] = {}
    for site in model.sites():
        name = quantizer_name(site.tensor.name)
        quantizer = LearnedQuantizer(model.activations[site.tensor.name], site.form)
        quantizer.requires_grad_(settings.tune_activations and not site.form.symmetric)
        quantizer.log_factor.requires_grad_(settings.tune_activations)
        module.add_submodule(name, quantizer)
        with module.graph.inserting_after(nodes[site.tensor.name]):
            rounded = module.graph.call_module(name, (nodes[site.tensor.name],))
        for consumer in site.consumers:
            nodes[consumer.name].replace_input_with(nodes[site.tensor.name], rounded)
            quantizers[consumer.name] = quantizer
    biases: dict[str, TunedBias] = {}
    for call in model.integer_biases():
        original = next(n for n in model.graph.graph.nodes if n.name == call)
        bias = str(bias_name(original))
        if bias not in biases:
            biases[bias] = TunedBias(tensor(model.graph, bias), _noise(model, original))
            biases[bias].requires_grad_(settings.tune_biases)
        scale = model.weights[weight_name(original)].params.scale
        module.add_submodule(f"trained_bias_{call}", IntegerBias(biases[bias], quantizers[call], scale))
        with module.graph.inserting_before(nodes[call]):
            nodes[call].update_arg(2, module.graph.call_module(f"trained_bias_{call}"))
    rebuild(module)
    return module


def _origin(weight: QuantizedWeight, model: CompressedModel, teacher: fx.GraphModule, name: str) -> Tensor:
    """The real weight behind the integers: the teacher's if it lies within a step of them, else the model's own."""
    real = tensor(teacher, name)
    scale, zero = weight.params.broadcast(real.dim())
    integers = weight.integers.to(torch.float32)
    distance = (torch.clamp(real / scale + zero, weight.form.qmin, weight.form.qmax) - integers).abs()
    return real if float(distance.max()) <= 1.0 else tensor(model.graph, name)


def _noise(model: CompressedModel, node: fx.Node) -> Tensor:
    """Per output channel, what one step of the input's quantiser on all taps adds up to: |w| times the step, [C]."""
    name, source = weight_name(node), node.args[0]
    assert isinstance(source, fx.Node)
    weight = model.weights[name].values
    bias = tensor(model.graph, str(bias_name(node)))
    axis = model.weights[name].params.axis or 0
    norms = weight.transpose(0, axis).flatten(1).norm(dim=1)
    if norms.shape != bias.shape:
        norms = norms.mean().expand_as(bias)
    result: Tensor = norms * model.activations[source.name].scale
    return result


def _submodule(module: fx.GraphModule, name: str, kind: type[M]) -> M:
    found = module.get_submodule(name)
    assert isinstance(found, kind)
    return found


def harden(model: CompressedModel, student: fx.GraphModule) -> CompressedModel:
    """The compressed model that computes what `student` computes now."""
    graph = clone(model.graph)
    weights: dict[str, QuantizedWeight] = {}
    for name in model.weights:
        weights[name] = _submodule(student, f"trained_{name.replace('.', '_')}", RoundedWeight).quantized()
    nodes = {node.name: node for node in model.graph.graph.nodes}
    for call in model.integer_biases():
        with torch.no_grad():
            bias = _submodule(student, f"trained_bias_{call}", IntegerBias).bias()
        set_tensor(graph, str(bias_name(nodes[call])), bias.clone())
    activations = dict(model.activations)
    for site in model.sites():
        name = site.tensor.name
        activations[name] = _submodule(student, quantizer_name(name), LearnedQuantizer).params()
    return CompressedModel(graph, model.plan, weights, activations)
