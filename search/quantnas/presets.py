"""Presets: a space with the settings of its search and of the training of what is found."""

from __future__ import annotations

from dataclasses import dataclass

from bitwright.foundation.errors import UsageError
from bitwright.foundation.suggest import nearest
from search.quantnas.settings import RetrainSettings, SearchSettings
from workloads.super_resolution.models.searched import SearchSpace, load_space


@dataclass(frozen=True)
class Preset:
    """What a name stands for."""

    space: str
    search: SearchSettings
    retrain: RetrainSettings
    width: int | None = None
    cells: int | None = None

    def sized_space(self, name: str | None = None) -> SearchSpace:
        """The preset's space, or another one by name or file, at the preset's size where it sets one."""
        return load_space(self.space if name is None else name).resized(width=self.width, cells=self.cells)


PRESETS = {
    "paper-a": Preset("basic", SearchSettings(epochs=20, warm_up=0, penalty=1e-4), RetrainSettings()),
    "paper-b": Preset("rfdn", SearchSettings(epochs=20, warm_up=9, penalty=1e-5), RetrainSettings()),
    "smoke": Preset(
        "basic",
        SearchSettings(epochs=2, warm_up=0, steps_per_epoch=4, batch=4, patch=16, alpha_rate=3e-2, log_every=1),
        RetrainSettings(epochs=2, steps_per_epoch=6, batch=4, patch=16, rate=1e-3, checked_pictures=2, log_every=2),
        width=12,
        cells=1,
    ),
}
"""`paper-a` and `paper-b` have the values of the authors' two revisions; `smoke` runs through in a minute on a CPU and
finds nothing of use."""


def preset(name: str) -> Preset:
    """A preset by its name; UsageError names the nearest."""
    if name not in PRESETS:
        raise UsageError(f"no preset is named {name!r}; {nearest(name, PRESETS)}")
    return PRESETS[name]
