"""Searches for the N of each layer's N:M while the network trains.

- `Domino`: weights are pulled towards zero, and a layer loses a weight of each group once most groups have lost it
- `Learned` (SLS): a score for each rank within a group, trained with the network
- `search_patterns`: the loop that either is run in
"""

from compress.sparsity.pattern_search.base import PatternSearch, Searched
from compress.sparsity.pattern_search.domino import Domino
from compress.sparsity.pattern_search.learned import Learned
from compress.sparsity.pattern_search.loop import Found, SearchSettings, search_patterns

__all__ = ["Domino", "Found", "Learned", "PatternSearch", "SearchSettings", "Searched", "search_patterns"]
