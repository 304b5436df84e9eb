"""The benchmark of mixed widths: what random search draws, what is kept, what the tables tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.eqnet_mixed import FORM, NEAR, Kept, random_members
from benchmarks.eqnet_mixed_tables import ARMS, Chosen, Learnt, Ordered, tables
from compress.layer_table import LayerTable
from search.eqnet.accounting import Accounting
from search.eqnet.encoder import bits_of
from search.eqnet.genes import GeneMap
from search.eqnet.predictor import Agreement
from search.eqnet.samples import Scored
from search.eqnet.space import Configuration, ElasticSpace
from tests.search.eqnet.helpers import images, resnet_graph


def test_random_members_are_near_the_limit_and_of_every_slope() -> None:
    graph = resnet_graph()
    space = ElasticSpace.of(graph, (2, 3, 4, 6, 8))
    bitops = Accounting.of(LayerTable.from_graph(graph, images(1)), space).bitops()
    most = float(bitops(bits_of([space.uniform(4, FORM)]))[0])
    members = random_members(GeneMap(space), bitops, most, 300, seed=0)
    costs = bitops(members)
    assert (costs <= most).all()
    assert (costs >= NEAR * most).all()
    assert len({m.tobytes() for m in members}) == 300
    free = members[:, list(space.free)]
    assert {int(w) for w in np.unique(free)} == {2, 3, 4, 6, 8}
    again = random_members(GeneMap(space), bitops, most, 300, seed=0)
    assert np.array_equal(members, again)


def test_a_quality_is_evaluated_once_and_a_line_that_was_cut_off_again(tmp_path: Path) -> None:
    space = ElasticSpace.of(resnet_graph(), (4, 8))
    asked: list[str] = []

    def evaluate(configuration: Configuration) -> Scored:
        asked.append(configuration.key)
        return Scored(float(len(asked)), {"top-1": 90.0})

    first, second = (space.uniform(bits, FORM) for bits in (4, 8))
    kept = Kept(evaluate, tmp_path / "work" / "qualities.jsonl")
    assert [kept(one).value for one in (first, first, second)] == [1.0, 1.0, 2.0]
    with kept.path.open("rb+") as file:
        file.truncate(kept.path.stat().st_size - 3)
    again = Kept(evaluate, kept.path)
    assert (again(first), again(second).value) == (Scored(1.0, {"top-1": 90.0}), 3.0)
    assert Kept(evaluate, kept.path).known == again.known


def test_the_tables_have_a_row_for_each_arm_that_is_done() -> None:
    found = [
        Chosen(arm=arm, bits=bits, seed=seed, evaluations=20, share=1.0, sqnr=20.0 + seed, held_out=99.0,
               test=80.0 + bits, widths=((4, 4),))
        for arm in ARMS[:-1] for bits in (3, 4) for seed in range(2)
    ]  # fmt: skip
    found.append(found[0].model_copy(update={"arm": ARMS[-1]}))
    agreed = Agreement(samples=100, pearson=0.95, kendall=0.86, kendall_top_quartile=None, rmse=1.25)
    text = tables(found, [Learnt(kind="CQAP", samples=400, told=agreed)], [Ordered(quality="SQNR", told=agreed)])
    assert "| CQAP      |     400 |   0.950 |   0.860 |                   n/a |     1.25 |" in text
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert rows[5:] == list(ARMS[:-1]), "the last arm lacks a budget"
    assert "20.50 ± 0.71" in text
    assert "| SQNR    |   0.950 |   0.860 |                   n/a |" in text
