"""A front by Optuna's multi-objective samplers, for a cost that is no sum over layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from bitwright.foundation.errors import UsageError
from bitwright.foundation.progress import track
from search.sensitivity.precision import Assignment


class Sampler(StrEnum):
    """How the next plan is proposed."""

    NSGA2 = "nsga2"
    TPE = "tpe"


def sample_assignments(
    allowed: Mapping[str, Sequence[str]],
    cost: Callable[[Assignment], float],
    drop: Callable[[Assignment], float],
    *,
    trials: int = 500,
    seed: int = 0,
    sampler: Sampler = Sampler.NSGA2,
    moves: Sequence[Sequence[str]] = (),
    starts: Sequence[Assignment] = (),
    journal: Path | None = None,
) -> list[dict[str, str]]:
    """The assignments that none of the trials beats in both cost and drop, by ascending cost.

    `moves`: layers that have one precision together (shared weights, blocks); a layer belongs to its first move.
    `starts`: tried first. The same seed gives the same result; with a `journal` a killed study goes on from its trials,
    and several processes share one.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if trials < 1 or not allowed:
        raise UsageError("sampling needs at least one trial and one layer")
    joined = _joined(allowed, moves)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made = (
        optuna.samplers.NSGAIISampler(seed=seed)
        if sampler is Sampler.NSGA2
        else optuna.samplers.TPESampler(seed=seed, multivariate=True)
    )
    study = optuna.create_study(
        study_name="sensitivity",
        directions=["minimize", "minimize"],
        sampler=made,
        storage=None if journal is None else JournalStorage(JournalFileBackend(str(journal))),
        load_if_exists=True,
    )
    if not study.trials:
        for start in starts:
            study.enqueue_trial({leader: start[leader] for leader in joined})

    def spread(chosen: Mapping[str, str]) -> dict[str, str]:
        leaders = {name: leader for leader, members in joined.items() for name in members}
        return {name: chosen[leaders[name]] for name in allowed}

    finished = sum(t.state.is_finished() for t in study.trials)
    for _ in track(range(finished, trials), "sampling plans"):
        trial = study.ask()
        chosen = {leader: trial.suggest_categorical(leader, list(allowed[leader])) for leader in joined}
        assignment = spread(chosen)
        study.tell(trial, (cost(assignment), drop(assignment)))
    best = sorted(study.best_trials, key=lambda t: (t.values[0], t.values[1], t.number))
    found = {tuple(spread(t.params).values()): spread(t.params) for t in best}
    return list(found.values())


def _joined(allowed: Mapping[str, Sequence[str]], moves: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """Members by leader, the first layer of each move; UsageError for a move whose layers cannot be equal."""
    leader: dict[str, str] = {}
    for members in moves:
        free = [name for name in members if name not in leader]
        for name in free:
            if list(allowed[name]) != list(allowed[free[0]]):
                raise UsageError(f"{free[0]} and {name} cannot move together: they have different precisions")
            leader[name] = free[0]
    joined: dict[str, list[str]] = {}
    for name in allowed:
        joined.setdefault(leader.get(name, name), []).append(name)
    return joined
