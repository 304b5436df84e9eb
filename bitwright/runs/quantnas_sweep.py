"""A sweep of penalties by Optuna: one study of cost and quality that any number of processes share and continue."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bitwright.foundation.errors import OutputError
from bitwright.foundation.progress import note
from bitwright.runs.lock import FolderLock
from bitwright.runs.quantnas_bench import Bench
from bitwright.runs.quantnas_point import POINT, carry_out
from bitwright.runs.quantnas_result import QuantnasPoint
from compress.training.processes import Processes

if TYPE_CHECKING:
    import optuna

STUDY, TURN, NAME, PENALTY = "study.journal", "study.lock", "quantnas", "penalty"
STARTS = 4
"""Trials that are spread evenly over the logarithm of the range, before the sampler knows anything."""


@dataclass(frozen=True)
class Claim:
    """A trial that this process has to itself as long as it holds the lock."""

    number: int
    penalty: float
    lock: FolderLock


class PenaltyStudy:
    """The trials of a run folder, in Optuna's journal file: cost is to be small and quality large.

    A trial belongs to the process that holds the lock of its folder; the kernel drops it with the process, so that a
    trial whose process is gone is taken up by the next one that asks.
    """

    def __init__(self, folder: Path, bounds: tuple[float, float], seed: int) -> None:
        self.folder, self.bounds, self.seed = folder, bounds, seed

    def claim(self, wanted: int) -> Claim | None:
        """A trial that was left, or the next one; None where `wanted` are finished or in other hands."""
        from optuna.trial import TrialState

        with self._turn() as study:
            if not study.trials:
                for penalty in np.geomspace(*self.bounds, min(wanted, STARTS)):
                    study.enqueue_trial({PENALTY: float(penalty)})
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if PENALTY not in trial.params:
                    study.tell(trial.number, state=TrialState.FAIL)
                elif (lock := self._lock(trial.number)) is not None:
                    return Claim(trial.number, trial.params[PENALTY], lock)
            states = [trial.state for trial in study.get_trials(deepcopy=False)]
            taken = sum(state in {TrialState.COMPLETE, TrialState.RUNNING} for state in states)
            if taken >= wanted:
                return None
            made = study.ask()
            penalty = made.suggest_float(PENALTY, *self.bounds, log=True)
            lock = self._lock(made.number)
            if lock is None:
                raise OutputError(f"{self.folder / trial_name(made.number)} is in use; is it a folder of this run?")
            return Claim(made.number, penalty, lock)

    def tell(self, number: int, point: QuantnasPoint) -> None:
        """Finish a trial."""
        assert point.held_out is not None
        with self._turn() as study:
            study.tell(number, (point.cost, point.held_out))

    def running(self) -> int:
        """Trials in other hands."""
        from optuna.trial import TrialState

        with self._turn() as study:
            return len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def _lock(self, number: int) -> FolderLock | None:
        folder = self.folder / trial_name(number)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(folder)
        try:
            lock.acquire()
        except OutputError:
            return None
        return lock

    @contextmanager
    def _turn(self) -> Iterator[optuna.Study]:
        """The study, for one process at a time: two that ask at once must neither count nor draw alike."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with (self.folder / TURN).open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            storage = JournalStorage(JournalFileBackend(str(self.folder / STUDY)))
            known = {one.study_name for one in storage.get_all_studies()}
            count = len(optuna.load_study(study_name=NAME, storage=storage).trials) if NAME in known else 0
            # The seed moves on with the study: a sampler of its own in each process would draw alike in all.
            sampler = optuna.samplers.TPESampler(
                seed=(self.seed + count) % 2**32, n_startup_trials=STARTS, constant_liar=True
            )
            yield optuna.create_study(
                study_name=NAME, storage=storage, sampler=sampler, directions=["minimize", "maximize"],
                load_if_exists=True,
            )  # fmt: skip


def trial_name(number: int) -> str:
    """Folder of a trial in the run."""
    return f"trial-{number:04d}"


def sweep(bench: Bench, group: Processes) -> list[QuantnasPoint]:
    """Work on the trials of the study until none is left to take up; all points that are finished."""
    request = bench.request
    assert request.sweep is not None
    study = PenaltyStudy(request.out, request.penalty_range, request.seed)
    while True:
        claim = study.claim(request.sweep) if group.first else None
        number = int(group.from_first(-1.0 if claim is None else float(claim.number)))
        if number < 0:
            break
        penalty = group.from_first(0.0 if claim is None else claim.penalty)
        try:
            if group.first:
                note(f"{trial_name(number)} of {request.sweep}: penalty {penalty:.3g}")
            point = carry_out(bench, trial_name(number), None, penalty, group)
            if group.first:
                study.tell(number, point)
        finally:
            if claim is not None:
                claim.lock.release()
    if group.first and (elsewhere := study.running()):
        note(f"{elsewhere} trials are running in other processes; the last one to finish writes the whole front")
    found = sorted(request.out.glob(f"{trial_name(0)[:-4]}*/{POINT}"))
    return [QuantnasPoint.model_validate_json(path.read_bytes()) for path in found]
