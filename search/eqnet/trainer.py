"""Training of a supernet: one state that can be saved after any step and continued from there."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bitwright.foundation.progress import note
from compress.graph import clone
from compress.recovery.schedule import rate_share
from compress.recovery.student import tapped
from compress.training.processes import Processes
from compress.training.samples import Pairs, batches
from compress.training.state import Position, load_state, moments, restore_moments, save_state, seed_step
from search.eqnet.distribution import LEAST_VALUES, Shape, shape_of
from search.eqnet.guidance import Guidance, Lesson, Outputs
from search.eqnet.sampling import sandwich
from search.eqnet.settings import EqnetSettings, Guide
from search.eqnet.step import losses
from search.eqnet.supernet import Supernet

OnLog = Callable[[dict[str, float]], None]
WDR_SCALE = "wdr_scale"


class Trainer:
    """Trains `supernet` in place. `images`: its output is an image, and guidance is the adapted one.

    Every process draws the same configurations, which are a function of seed and step; batch norms take the statistics
    of each process's own share.
    """

    def __init__(self, supernet: Supernet, data: Pairs, settings: EqnetSettings, processes: Processes, *,
                 images: bool, path: Path | None = None) -> None:  # fmt: skip
        self.settings, self.processes, self.data, self.path = settings, processes, data, path
        self.guidance: Guidance = settings.guidance(images=images)
        self.position = Position(self._fingerprint(supernet, images), values={WDR_SCALE: 1.0})
        self.supernet = supernet.to(processes.device)
        names = (supernet.space.layers[-1].source,) if self.guidance.taps else ()
        self.network = tapped(supernet.graph, names)
        taught = settings.guide is not Guide.WIDER
        self.teacher = tapped(clone(supernet.template), names).to(processes.device) if taught else None
        self.parameters = dict(supernet.named_parameters())
        self.quantiser_rates = {
            id(parameter): rate for quantiser in (*supernet.weights.values(), *supernet.activations.values())
            for kind, rate in ((quantiser.log_scale, settings.scale_rate), (quantiser.offset, settings.offset_rate))
            for parameter in kind.values()
        }  # fmt: skip
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.parameters.items():
            groups.setdefault(self._rate(name), []).append(parameter)
        self.rates = list(groups)
        self.optimizer = torch.optim.Adam([{"params": group, "lr": rate} for rate, group in groups.items()])
        pinned = {layer.weight for layer in supernet.space.layers if layer.pinned}
        first = supernet.space.layers[0].weight
        weights = supernet.layer_weights()
        left_out = pinned if images else {first}
        self.shaped = [
            w for n, w in weights.items() if n not in left_out and w.numel() >= (LEAST_VALUES if images else 1)
        ]

    def _rate(self, name: str) -> float:
        """Adam's rate for a parameter; a bias goes at the pace of its layer's weights."""
        settings = self.settings
        own = self.quantiser_rates.get(id(self.parameters[name]))
        if own is not None:
            return own
        if not settings.relative:
            return settings.weight_rate
        paced = self.parameters.get(name.removesuffix("bias") + "weight", self.parameters[name])
        return settings.weight_rate * float(paced.detach().square().mean().sqrt())

    def run(self, on_log: OnLog | None = None) -> Position:
        """Train to the end, from the saved state where there is one."""
        settings, position = self.settings, self.position
        if self.path is not None and self.path.is_file():
            position = self._restore(self.path)
        began, saved, resumed = time.monotonic(), time.monotonic(), position.seconds
        source = batches(self.data, settings.batch, self.processes, position.step, settings.workers)
        self.supernet.train()
        while position.step < settings.steps:
            images, targets = (part.to(self.processes.device, non_blocking=True) for part in next(source))
            if position.step == 0 and settings.wdr_share is not None:
                balanced = torch.tensor(self._balanced(images, targets, settings.wdr_share), dtype=torch.float64)
                position.values[WDR_SCALE] = self.processes.mean(balanced.to(self.processes.device))
            found = self.step(images, targets, position.step)
            position.step += 1
            position.seconds = resumed + time.monotonic() - began
            ended = position.step == settings.steps
            if position.step % settings.log_every == 0 or ended:
                entry = {name: self.processes.mean(value) for name, value in found.items()}
                self._log(entry, on_log)
            late = self.processes.from_first(float(time.monotonic() - saved >= settings.save_seconds))
            if late or ended:
                self._save()
                saved = time.monotonic()
        self.supernet.eval()
        return position

    def step(self, images: Tensor, targets: Tensor, number: int) -> dict[str, Tensor]:
        """Step `number` on this process's share of a batch; the losses of its passes and the two terms of WDR."""
        settings = self.settings
        seed_step(settings.seed, number, self.processes.rank)
        share = rate_share(number, settings.steps, settings.warm_up, settings.final_rate)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share
        self.optimizer.zero_grad(set_to_none=True)
        found: dict[str, Tensor] = {}
        shape = self._shape()
        if shape is not None:
            torch.autograd.backward(self._wdr(shape))
            found = {"kurtosis": shape.kurtosis.detach(), "skewness": shape.skewness.detach()}
        drawn = sandwich(self.supernet.space, settings.seed, number, settings.randoms, settings.global_share)
        found["one_form"] = torch.tensor(float(drawn[1].one_form), device=images.device)
        found |= losses(
            self.supernet, self._outputs, self.guidance, drawn, images, targets, torch.autograd.backward,
            amp=settings.amp, first=self._first_lesson(images), every=settings.guide is Guide.FLOAT,
        )  # fmt: skip
        used = [p for p in self.parameters.values() if p.grad is not None]
        self.processes.average_gradients(used)
        if settings.clip_value is not None:
            nn.utils.clip_grad_value_(used, settings.clip_value)
        if settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(used, settings.clip_norm)
        self.optimizer.step()
        return found

    def _outputs(self, x: Tensor) -> Outputs:
        return _several(self.network(x))

    def _first_lesson(self, x: Tensor) -> Lesson | None:
        if self.teacher is None:
            return None
        with torch.no_grad():
            return self.guidance.teach([_several(self.teacher(x))])

    def _shape(self) -> Shape | None:
        settings = self.settings
        return shape_of(self.shaped) if self.shaped and (settings.kurt_rate or settings.skew_rate) else None

    def _wdr(self, shape: Shape) -> Tensor:
        return self.position.values[WDR_SCALE] * shape.loss(self.settings.kurt_rate, self.settings.skew_rate)

    def _balanced(self, images: Tensor, targets: Tensor, share: float) -> float:
        """The factor at which the regulariser's gradient on the weights has this share of the task's norm."""
        shape = self._shape()
        if shape is None:
            return 1.0
        self.supernet.choose(sandwich(self.supernet.space, self.settings.seed, 0)[0].configuration)
        task = self.guidance.loss(self._outputs(images), targets, self._first_lesson(images))
        norms = []
        for loss in (task, shape.loss(self.settings.kurt_rate, self.settings.skew_rate)):
            gradients = torch.autograd.grad(loss, self.shaped)
            norms.append(self.processes.mean(torch.stack([g.square().sum() for g in gradients]).sum()) ** 0.5)
        note(f"supernet: gradient norms at the start: task {norms[0]:.3g}, weight distribution {norms[1]:.3g}")
        return share * norms[0] / norms[1] if norms[1] > 0 else 1.0

    def _log(self, entry: dict[str, float], on_log: OnLog | None) -> None:
        position = self.position
        entry |= {"step": float(position.step), "seconds": position.seconds}
        position.history.append(entry)
        if not self.processes.first:
            return
        left = position.seconds / position.step * (self.settings.steps - position.step) / 60
        shown = "  ".join(f"{n} {v:.4g}" for n, v in entry.items() if n[0] in "HRLks" and n not in ("step", "seconds"))
        note(f"supernet: step {position.step}/{self.settings.steps}  {shown}  {left:.1f} min left")
        if on_log is not None:
            on_log(entry)

    def _fingerprint(self, supernet: Supernet, images: bool) -> str:
        digest = hashlib.sha256()
        for name, value in sorted(supernet.template.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        described = [
            self.settings.fingerprint(),
            supernet.space.model_dump(),
            supernet.mode,
            images,
            digest.hexdigest(),
        ]
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()

    def _save(self) -> None:
        if self.path is None or not self.processes.first:
            return
        groups = {"value": self.supernet.state_dict()} | moments(self.optimizer, self.parameters, "adam_")
        save_state(self.path, self.position, groups)

    def _restore(self, path: Path) -> Position:
        self.position, groups = load_state(path, self.position.fingerprint)
        self.supernet.load_state_dict(groups["value"])
        restore_moments(self.optimizer, self.parameters, "adam_", groups)
        note(f"supernet: continuing at step {self.position.step}")
        return self.position


def _several(result: Tensor | Outputs) -> Outputs:
    return result if isinstance(result, tuple) else (result,)


def values_digest(path: Path) -> str:
    """Hash of the values of a saved supernet, whatever time its training took; for caches of what it was asked."""
    digest = hashlib.sha256()
    for name, value in sorted(load_file(path).items()):
        if name.startswith("value/"):
            digest.update(name.encode() + value.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
