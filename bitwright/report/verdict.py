"""The result in one sentence, and the checks a reader wants to see passed or failed beside it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bitwright.report import text
from bitwright.report.measured import Latency
from bitwright.report.schema import AuditResult, Quality, Report

_INTERVAL = "95 % interval "


class Level(StrEnum):
    """How good the news is."""

    GOOD = "good"
    INFO = "info"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True)
class Phrase:
    """A piece of the sentence; `strong` pieces carry the figures."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Check:
    """One promise, and whether the run kept it."""

    level: Level
    text: str


def sentence(report: Report) -> tuple[Phrase, ...]:
    """What ran, how much faster with the interval, and what it cost, as one sentence."""
    return (
        Phrase(report.model.architecture),
        Phrase(_ran(report.audit, report.was_run)),
        *_faster(report.latency),
        Phrase(" and "),
        *_cost(report.quality),
        Phrase("."),
    )


def plain_sentence(report: Report) -> str:
    """`sentence` as one string."""
    return "".join(phrase.text for phrase in sentence(report))


def checks(report: Report) -> tuple[Check, ...]:
    """The audit, the limit, the torch to engine agreement and the noise of the machine, worst news included."""
    found = [_audit_check(report.audit, report.was_run), _limit_check(report)]
    if report.latency is not None and report.latency.noisy:
        found.append(Check(Level.WARN, "Machine was busy while measuring"))
    elif report.latency is not None:
        found.append(Check(Level.GOOD, "Quiet machine"))
    if report.quality is not None and report.quality.torch_engine_gap is not None:
        # Whether this gap is tolerable is for `verify` to say; the report only states it.
        gap = f"{text.number(report.quality.torch_engine_gap, 3)} {report.quality.unit}"
        found.append(Check(Level.INFO, f"torch and engine differ by {gap}"))
    found += _sparsity_checks(report)
    if report.narrowed is not None:
        before, after = (sum(pair[at] for pair in report.narrowed.layers.values()) for at in (0, 1))
        found.append(
            Check(
                Level.INFO,
                f"{len(report.narrowed.layers)} layers narrowed from {before} to {after} channels in all, in steps of "
                f"{report.narrowed.step}",
            )
        )
    return tuple(check for check in found if check is not None)


def _sparsity_checks(report: Report) -> list[Check]:
    """What N:M brings: never more than what the clock or the file has shown."""
    sparsity = report.sparsity
    if sparsity is None:
        return []
    count = sum(sparsity.layers.values())
    patterns = ", ".join(f"{n} at {pattern}" for pattern, n in sparsity.layers.items()) or "none"
    packed = text.percent(sparsity.packed_bytes, sparsity.unpacked_bytes)
    facts = (
        f"Pruned layers: {patterns}, of {count + len(sparsity.dense)}; {100 * sparsity.zeros:.0f} % of weights are "
        f"zero; packed file {packed} of the unpacked one"
    )
    found = [Check(Level.INFO, facts), Check(Level.WARN if sparsity.size_only else Level.INFO, sparsity.effect)]
    if sparsity.warning:
        found.append(Check(Level.WARN, sparsity.warning))
    if (training := sparsity.training) is not None and training.left_out:
        told = f"Masks trained by {training.method} were left out: pruning without training lost less"
        found.append(Check(Level.WARN, told))
    elif training is not None and training.best_step == 0:
        told = f"No step of the training of masks by {training.method} was better than its start"
        found.append(Check(Level.WARN, told))
    if sparsity.lost:
        broken = f"Padding breaks the pattern of {len(sparsity.lost)} layers in the engine's file"
        found.append(Check(Level.WARN, broken))
    return found


def _ran(audit: AuditResult | None, was_run: bool) -> str:
    if audit is None or not audit.executed:
        return " (executed precision n/a)"
    layers = sum(audit.executed.values())
    name, count = max(audit.executed.items(), key=lambda item: (item[0].startswith("int"), item[1]))
    many = f"all {layers}" if count == layers else f"{count} of {layers}"
    return f" with {many} layers {'executed' if was_run else 'built'} in {name}"


def _faster(latency: Latency | None) -> tuple[Phrase, ...]:
    if latency is None:
        return (Phrase(" was not timed (speed-up n/a)"),)
    speedup = latency.speedup
    low, high = speedup.low, speedup.high
    bounds = f" ({text.ratio_interval(low, high, _INTERVAL)})"
    if low is None or high is None:
        return (Phrase(" was timed too briefly to tell"), Phrase(bounds), Phrase(f" from {latency.baseline}"))
    if low <= 1 <= high:
        return (Phrase(" shows "), Phrase("no speed difference", True), Phrase(f"{bounds} to {latency.baseline}"))
    if speedup.ratio < 1:
        slower = f"{text.ratio(1 / speedup.ratio)} slower"
        bounds = f" ({text.ratio_interval(1 / high, 1 / low, _INTERVAL)})"
        return (Phrase(" runs "), Phrase(slower, True), Phrase(f"{bounds} than {latency.baseline}"))
    faster = f"{text.ratio(speedup.ratio)} faster"
    return (Phrase(" runs "), Phrase(faster, True), Phrase(f"{bounds} than {latency.baseline}"))


def _cost(quality: Quality | None) -> tuple[Phrase, ...]:
    if quality is None:
        return (Phrase("its quality was not measured (n/a)"),)
    amount = f"{text.number(abs(quality.drop), 3)} {quality.unit}"
    verb = "loses " if quality.drop >= 0 else "gains "
    return (Phrase(verb), Phrase(amount, True), Phrase(f" {quality.metric} on {quality.dataset.words}"))


def _audit_check(audit: AuditResult | None, was_run: bool) -> Check:
    if audit is None or not audit.executed:
        return Check(Level.WARN, "Executed precision not audited")
    wrong = len(audit.mismatches)
    if wrong:
        layers = "1 layer" if wrong == 1 else f"{wrong} layers"
        return Check(Level.BAD, f"Audit failed: {layers} did not execute as planned")
    if not was_run:
        return Check(Level.WARN, "Each layer was built as planned; the engine was not run")
    return Check(Level.GOOD, "Audit passed: each layer executed as planned")


def _limit_check(report: Report) -> Check | None:
    limit = report.limits.max_drop_db
    if limit is None:
        return None
    unit = "dB" if report.quality is None else report.quality.unit
    asked = f"{text.number(limit, 3).rstrip('0').rstrip('.')} {unit}"
    if report.limits.reached is None:
        return Check(Level.WARN, f"Limit of {asked} not checked: the engine was not run")
    if report.limits.reached:
        return Check(Level.GOOD, f"Kept the limit of {asked}")
    return Check(Level.BAD, f"Limit of {asked} not reached")
