"""Searches over settings: the space, its conditions, and who picks from it. None of it trains."""

from harken.search.search import (
    GridSampler,
    MedianPruner,
    NoPruner,
    Pruner,
    RandomSampler,
    Sampler,
    Search,
    TpeSampler,
    Values,
)
from harken.search.search_check import mistakes_in
from harken.search.search_parameters import (
    CategoricalParameter,
    FloatParameter,
    IntParameter,
    Parameter,
    Value,
)

__all__ = [
    "CategoricalParameter",
    "FloatParameter",
    "GridSampler",
    "IntParameter",
    "MedianPruner",
    "NoPruner",
    "Parameter",
    "Pruner",
    "RandomSampler",
    "Sampler",
    "Search",
    "TpeSampler",
    "Value",
    "Values",
    "mistakes_in",
]
