"""Spreading bits over experts: the integer programs, and what they are compared with.

A program for one layer (`allocate`) needs that layer's scores alone, so a layer can be written
before the next one is read. `allocate_model` needs the scores of all layers, and so a second pass
over the source.
"""

from compress.allocation.budgets import (
    WIDEST_WIDTHS,
    WIDTHS,
    Budget,
    ModelBudget,
    plan_budget,
    plan_model_budget,
    widths_for,
)
from compress.allocation.per_layer import allocate, costs, random_widths, solve
from compress.allocation.scores import Exponents, LayerScores, default_exponents
from compress.allocation.whole import allocate_model, model_costs

__all__ = [
    "WIDEST_WIDTHS",
    "WIDTHS",
    "Budget",
    "Exponents",
    "LayerScores",
    "ModelBudget",
    "allocate",
    "allocate_model",
    "costs",
    "default_exponents",
    "model_costs",
    "plan_budget",
    "plan_model_budget",
    "random_widths",
    "solve",
    "widths_for",
]
