"""A front of plans without training: what each layer loses by quantising, what it costs, and the best of every budget.

- `sensitivity_front`, `refit_front`, `SearchSettings`, `native_precisions`: the search, predicted and from measurements
- `Front`, `FrontPoint`: its result
- `Alternatives`: one network in several precisions; an assignment {layer: precision} to a plan and its model
- `Sensitivities`, `QualityModel`: measured output errors, and the drop that they predict
- `PlanCost`, `SeparableCost`, `roofline_cost`: costs that a solver can minimise
- `sample_assignments`: for a cost that is no sum over layers
- `check_additivity`: whether errors add up
"""

from search.sensitivity.additivity import Agreement, check_additivity, random_assignments
from search.sensitivity.cost import Crossing, PlanCost, SeparableCost, roofline_cost
from search.sensitivity.front import Front, FrontPoint, non_dominated, solve_front
from search.sensitivity.groups import Group, GroupKind, edges, groups, partition, ties
from search.sensitivity.measure import all_options, measure
from search.sensitivity.precision import Alternatives, assignment_of, precision_of
from search.sensitivity.proxy import proxy_errors
from search.sensitivity.quality import QualityModel
from search.sensitivity.refit import Measured, refit_cost, refit_quality
from search.sensitivity.sampler import Sampler, sample_assignments
from search.sensitivity.search import SearchSettings, native_precisions, refit_front, sensitivity_front
from search.sensitivity.sensitivities import Sensitivities
from search.sensitivity.variants import Variant

__all__ = [
    "Agreement",
    "Alternatives",
    "Crossing",
    "Front",
    "FrontPoint",
    "Group",
    "GroupKind",
    "Measured",
    "PlanCost",
    "QualityModel",
    "Sampler",
    "SearchSettings",
    "Sensitivities",
    "SeparableCost",
    "Variant",
    "all_options",
    "assignment_of",
    "check_additivity",
    "edges",
    "groups",
    "measure",
    "native_precisions",
    "non_dominated",
    "partition",
    "precision_of",
    "proxy_errors",
    "random_assignments",
    "refit_cost",
    "refit_front",
    "refit_quality",
    "roofline_cost",
    "sample_assignments",
    "sensitivity_front",
    "solve_front",
    "ties",
]
