"""One step of recovery training, and its replay as a CUDA graph.

A step is thousands of small kernels: on a GPU, launching them one by one takes several times as long as running them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from bitwright.foundation.progress import note
from compress.recovery.checkpoint import Values
from compress.recovery.losses import RecoveryLoss
from compress.recovery.schedule import rate_share
from compress.recovery.settings import Arithmetic, RecoverySettings

EAGER_STEPS = 3
"""Steps before the capture: they allocate what the captured one will use."""


@dataclass(frozen=True)
class Networks:
    """`network` is `student`, perhaps synchronised over processes, with the taps of `teacher`: (output, taps ...)."""

    student: fx.GraphModule
    network: nn.Module
    teacher: nn.Module


class Step:
    """Moves `free` by one step of Adam and `average` towards it. `past` holds the values of the model's own past.

    All three are changed in place only, so that a captured step keeps finding them.
    """

    def __init__(self, networks: Networks, loss: RecoveryLoss, settings: RecoverySettings,
                 free: dict[str, nn.Parameter], average: Values, past: Values,
                 device: torch.device) -> None:  # fmt: skip
        self.networks, self.loss, self.settings, self.device = networks, loss, settings, device
        self.free, self.average, self.past = free, average, past
        by_rate: dict[float, list[nn.Parameter]] = {}
        for name, parameter in free.items():
            by_rate.setdefault(_rate(settings, name), []).append(parameter)
        self.rates = list(by_rate)
        cuda = device.type == "cuda"
        groups = [
            {"params": members, "lr": torch.tensor(rate, device=device) if cuda else rate}
            for rate, members in by_rate.items()
        ]
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15, fused=True, capturable=cuda)
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
        return self.advance(images, targets)

    def advance(self, images: Tensor, targets: Tensor) -> Tensor:
        """The step itself, at the rates that are set."""
        self.optimizer.zero_grad(set_to_none=True)
        return self.compute(images, targets)

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
        if self.settings.clip is not None:
            nn.utils.clip_grad_norm_(list(self.free.values()), self.settings.clip)
        self.optimizer.step()
        with torch.no_grad():
            averages = list(self.average.values())
            moved = torch._foreach_sub([p.detach() for p in self.free.values()], averages)
            torch._foreach_mul_(moved, self.pull)
            torch._foreach_add_(averages, moved)
        return loss.detach()


class ReplayedStep(Step):
    """The same step on one GPU: a few times kernel by kernel, then captured, then replayed."""

    def __init__(self, networks: Networks, loss: RecoveryLoss, settings: RecoverySettings,
                 free: dict[str, nn.Parameter], average: Values, past: Values,
                 device: torch.device) -> None:  # fmt: skip
        super().__init__(networks, loss, settings, free, average, past, device)
        self.taken = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def advance(self, images: Tensor, targets: Tensor) -> Tensor:
        """The step itself, at the rates that are set."""
        self.taken += 1
        if self.taken <= EAGER_STEPS:
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                loss = super().advance(images, targets)
            torch.cuda.current_stream().wait_stream(side)
            return loss
        if self.taken == EAGER_STEPS + 1:
            self._capture(images, targets)
        if self.graph is None:
            return super().advance(images, targets)
        self._images.copy_(images)
        self._targets.copy_(targets)
        self.graph.replay()
        return self._loss.clone()

    def _capture(self, images: Tensor, targets: Tensor) -> None:
        self._images, self._targets = images.clone(), targets.clone()
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._loss = self.compute(self._images, self._targets)
        except RuntimeError as error:
            note(f"recovery: the step cannot be captured and runs kernel by kernel ({str(error).splitlines()[0]})")
            return
        self.graph = graph


def _rate(settings: RecoverySettings, name: str) -> float:
    leaf = name.rpartition(".")[2]
    rates = {"latent": settings.weight_rate, "log_factor": settings.scale_rate,
             "zero_point": settings.zero_rate, "offset": settings.bias_rate}  # fmt: skip
    return rates[leaf]
