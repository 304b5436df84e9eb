"""The quality of what QuantNAS finds: `python -m benchmarks.quantnas_study --data-root DIR`.

Networks found by the search at several budgets, beside those of the direct mode, random ones of the space, the fixed
network that the space is made of at one bit width and with searched bit widths, and the search without entropy or
without ADQ. All are trained from random weights on the same pictures for the same steps and evaluated on Set14 and
BSD100; a runtime that executes 4 bits is not needed, rounding is simulated in torch. A budget is given as a level:
that of the fixed network at so many bits, so that a uniform network stands at its own budget.

Each network is a file of its own: stop the study at any moment, continue it, run it in several processes on one --out.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import command
from benchmarks.common import write_results
from benchmarks.quantnas_study_arms import ABLATIONS, ArmKind, Study, Unit
from benchmarks.quantnas_study_tables import draw, main_table, margin_table, margins
from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import write_json
from bitwright.foundation.progress import note
from bitwright.foundation.suggest import nearest
from compress.training.processes import processes
from search.quantnas import RetrainSettings, SearchSettings
from workloads.super_resolution.models.searched import load_space

SETS = ("Set14", "BSD100")
SETTINGS = "settings.json"


def study_of(given: argparse.Namespace) -> Study:
    """The study that the options ask for."""
    space = load_space(given.space).resized(
        width=given.width, cells=given.cells, bits=tuple(int(bits) for bits in given.bits.split(","))
    )
    if given.end_bits:
        space = space.with_ends(given.end_bits)
    search = SearchSettings(
        epochs=given.epochs, warm_up=given.warm_up, steps_per_epoch=given.steps, batch=given.batch, patch=given.patch,
        alpha_rate=given.alpha_rate, dual_rate=given.dual_rate, amp=given.amp,
    )  # fmt: skip
    each = max(1, given.retrain_steps // given.retrain_epochs)
    retrain = RetrainSettings(
        epochs=given.retrain_epochs, steps_per_epoch=each, batch=given.batch, patch=given.patch,
        rate=given.retrain_rate, amp=given.amp, checked_pictures=given.checked,
    )  # fmt: skip
    test = given.data_root / "sr" / "test"
    return Study(
        space=space, search=search, retrain=retrain, train=given.train or given.data_root / "sr" / "train",
        sets={name: test / name for name in SETS}, images=given.images, work=given.out / command.WORK,
    )  # fmt: skip


def units_of(given: argparse.Namespace, study: Study) -> list[Unit]:
    """All networks of the study, seed by seed, so that a study that is stopped has whole seeds.

    Ablations are made at the middle level only; a uniform network at the levels that are bit widths of the space.
    """
    known = [arm.value for arm in ArmKind]
    arms = []
    for name in given.arms.split(",") if given.arms else known:
        if name not in known:
            raise UsageError(f"--arms: no arm is named {name!r}; {nearest(name, known)}")
        arms.append(ArmKind(name))
    levels = sorted(float(level) for level in given.levels.split(","))
    middle = levels[len(levels) // 2]
    found = []
    for seed in range(given.seeds):
        for level in levels:
            for arm in arms:
                if arm in ABLATIONS and level != middle:
                    continue
                if arm is ArmKind.UNIFORM and level not in study.space.bits:
                    continue
                found.append(Unit(arm, level, seed))
    return found


def claim(study: Study) -> None:
    """Stamp the folder with what decides the figures; UsageError where another study's are in it."""
    described = {
        "space": study.space.model_dump(mode="json"), "search": asdict(study.search), "retrain": asdict(study.retrain),
        "images": study.images, "train": study.train.name,
    }  # fmt: skip
    wanted = json.loads(json.dumps(described))
    path = study.work / SETTINGS
    if path.is_file():
        before = json.loads(path.read_bytes())
        different = sorted(key for key in wanted if before.get(key) != wanted[key])
        if different:
            raise UsageError(f"{study.work} holds another study ({', '.join(different)} differ); choose another --out")
        return
    write_json(path, wanted)


def benchmark(given: argparse.Namespace) -> str:
    """Make what is missing, write the results so far and return the text of the tables."""
    if given.threads:
        torch.set_num_threads(given.threads)
    study = study_of(given)
    units = units_of(given, study)
    claim(study)
    with processes() as group:
        for number, unit in enumerate([] if given.report else units):
            record = study.finished(unit, group)
            if record is None:
                note(f"study: {unit.name} is in other hands")
                continue
            note(f"study: {number + 1}/{len(units)}  {unit.name}  {record.bitops['32x32'] / 1e9:.3f} GBitOps  "
                 + "  ".join(f"{name} {value:.3f} dB" for name, value in record.quality.items()))  # fmt: skip
    # What was in other hands may be done by now.
    found = {unit.name: study.read(unit) for unit in units}
    records = [record for record in found.values() if record is not None]
    missing = [name for name, record in found.items() if record is None]
    rows = margins(records, SETS)
    text = "\n\n".join([_circumstances(study, len(missing)), main_table(records, SETS), margin_table(rows, SETS)])
    results = {
        "devices": sorted({record.device for record in records}),
        "missing": missing,
        "units": [record.model_dump(mode="json", by_alias=True) for record in records],
        "margins": rows,
    }
    write_results(given.out, "quantnas_study", results, text, command.hidden(given))
    if records:
        draw(records, SETS, given.out / "psnr_over_bitops.png")
    return text


def _circumstances(study: Study, missing: int) -> str:
    search, retrain = study.search, study.retrain
    unfinished = f" **Unfinished: {missing} networks are missing.**" if missing else ""
    return (
        f"## {study.space.name}, {study.space.width} channels, {study.space.cells} cells, "
        f"{' and '.join(map(str, study.space.bits))} bit\n\n"
        f"Search: {search.epochs} epochs of {search.steps_per_epoch} steps, {search.warm_up} of warm-up. Training of "
        f"every network: {retrain.epochs} x {retrain.steps_per_epoch} steps at {retrain.rate:g}. Batches of "
        f"{search.batch} x {search.patch}x{search.patch}. PSNR-Y with simulated rounding, mean ± standard "
        f"deviation over seeds.{unfinished}"
    )


def main() -> int:
    """Parse the command line, run and print."""
    made = argparse.ArgumentParser(
        description="Compare what QuantNAS finds with other ways to choose a network.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--data-root", type=Path, required=True, help="folder of sr/train and sr/test")
    made.add_argument("--train", type=Path, default=None, help="training pictures; default: sr/train")
    made.add_argument("--out", type=Path, default=Path("benchmarks/results/quantnas_study"), help="where results go")
    made.add_argument("--arms", default="", help=f"comma-separated, of {', '.join(ArmKind)}; default: all")
    made.add_argument("--levels", default="4,6,8", help="budgets: that of the fixed network at so many bits")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--space", default="rfdn")
    made.add_argument("--width", type=int, default=24)
    made.add_argument("--cells", type=int, default=2)
    made.add_argument("--bits", default="4,8")
    made.add_argument(
        "--end-bits", type=int, default=8, help="least width of layers that read or make the picture; 0: any"
    )
    made.add_argument("--epochs", type=int, default=20, help="epochs of a search")
    made.add_argument("--warm-up", type=int, default=6, help="of them before the architecture moves")
    made.add_argument("--steps", type=int, default=100, help="steps of an epoch of a search")
    made.add_argument("--alpha-rate", type=float, default=3e-3, help="learning rate of the architecture")
    made.add_argument("--dual-rate", type=float, default=1e-3, help="rate of the multiplier that meets a budget")
    made.add_argument("--retrain-steps", type=int, default=6000, help="steps of training, the same for every network")
    made.add_argument("--retrain-epochs", type=int, default=10, help="times that the best one is looked for")
    made.add_argument("--retrain-rate", type=float, default=1e-3)
    made.add_argument("--batch", type=int, default=16)
    made.add_argument("--patch", type=int, default=32, help="side of a patch, LR pixels")
    made.add_argument("--images", type=int, default=None, help="pictures of each test set at most (for a trial run)")
    made.add_argument("--checked", type=int, default=24, help="held-out pictures that the best epoch is chosen by")
    made.add_argument("--threads", type=int, default=0, help="threads; 0: torch's own choice")
    made.add_argument("--amp", action="store_true", help="bfloat16 where it is safe")
    made.add_argument("--report", action="store_true", help="train nothing: the tables of what is finished")
    given = made.parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
