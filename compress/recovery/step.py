"""One step of recovery training: the student towards the teacher, and the average towards the student."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from compress.recovery.checkpoint import Values
from compress.recovery.losses import RecoveryLoss
from compress.recovery.moving_masks import MovingMasks
from compress.recovery.schedule import rate_share
from compress.recovery.settings import Arithmetic, RecoverySettings
from compress.training.processes import Processes
from compress.training.replay import replays, stepped


@dataclass(frozen=True)
class Networks:
    """`network` is `student` with the taps of `teacher`: (output, taps ...)."""

    student: fx.GraphModule
    network: nn.Module
    teacher: nn.Module


class Step:
    """Moves `free` by one step of Adam and `average` towards it. `past` holds the values of the model's own past.

    All three are changed in place only, so that a captured step keeps finding them.
    """

    def __init__(self, networks: Networks, loss: RecoveryLoss, settings: RecoverySettings,
                 free: dict[str, nn.Parameter], average: Values, past: Values,
                 processes: Processes, masks: MovingMasks | None = None) -> None:  # fmt: skip
        self.networks, self.loss, self.settings, self.processes = networks, loss, settings, processes
        self.masks = masks
        device = self.device = processes.device
        self.free, self.average, self.past = free, average, past
        self.optimizer, self.rates = self._optimizer()
        # Masks are refreshed on the host, which a captured step would not do again.
        replayed = masks is None and replays(processes, True)
        self.run = stepped("recovery", self.compute, self.optimizer, replayed=replayed)
        self.pull = torch.zeros((), device=device)
        self.progress = torch.zeros((), device=device)

    def __call__(self, images: Tensor, targets: Tensor, number: int, total: int) -> Tensor:
        """Step `number` of `total`; the loss on this process's share of the batch, [], not waited for."""
        settings = self.settings
        share = rate_share(number, total, settings.warm_up, settings.final_rate)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * share)
            else:
                group["lr"] = rate * share
        self.pull.fill_(1 - min(settings.ema, (1 + number) / (10 + number)))
        self.progress.fill_(number / total)
        if self.masks is not None:
            self.masks.begin(number, total, self.optimizer)
        return self.run(images, targets)

    def _optimizer(self) -> tuple[torch.optim.Optimizer, list[float]]:
        """The optimiser and the rate of each of its groups."""
        if self.masks is not None:
            return self.masks.optimizer(self.free.values()), [self.masks.settings.rate]
        by_rate: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.free.items():
            by_rate.setdefault(_rate(self.settings, name), []).append(parameter)
        cuda = self.device.type == "cuda"
        groups = [
            {"params": members, "lr": torch.tensor(rate, device=self.device) if cuda else rate}
            for rate, members in by_rate.items()
        ]
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15, fused=True, capturable=cuda)
        return optimizer, list(by_rate)

    def compute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Forward, backward, update; gradients are None before."""
        bf16 = self.settings.arithmetic is Arithmetic.BF16
        # A cache of cast weights would outlive the capture that filled it.
        low = torch.autocast(self.device.type, torch.bfloat16, enabled=bf16, cache_enabled=self.device.type == "cpu")
        networks = self.networks
        with low, torch.no_grad():
            wanted = networks.teacher(images)
            past = torch.func.functional_call(networks.student, self.past, (images,)) if self.past else None
        with low:
            outputs = networks.network(images)
        loss = self.loss(
            [y.float() for y in outputs], [t.float() for t in wanted], targets,
            None if past is None else past.float(), self.progress,
        )  # fmt: skip
        loss.backward()  # type: ignore[no-untyped-call]
        self.processes.average_gradients(self.free.values())
        if self.masks is not None:
            self.masks.after_backward()
        if self.settings.clip is not None:
            nn.utils.clip_grad_norm_(list(self.free.values()), self.settings.clip)
        self.optimizer.step()
        if self.masks is not None:
            self.masks.after_step(self.optimizer)
        with torch.no_grad():
            averages = list(self.average.values())
            moved = torch._foreach_sub([p.detach() for p in self.free.values()], averages)
            torch._foreach_mul_(moved, self.pull)
            torch._foreach_add_(averages, moved)
        return loss.detach()


def _rate(settings: RecoverySettings, name: str) -> float:
    leaf = name.rpartition(".")[2]
    rates = {"latent": settings.weight_rate, "log_factor": settings.scale_rate,
             "zero_point": settings.zero_rate, "offset": settings.bias_rate}  # fmt: skip
    return rates[leaf]
