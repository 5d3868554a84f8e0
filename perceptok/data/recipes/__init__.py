"""Recipes: which sets of records to build from which sources, and the building of them."""

from perceptok.data.recipes.building import BuildReport, SetReport, build_data
from perceptok.data.recipes.recipe import DataRecipe, SourceConfig, SpecialistConfig
from perceptok.data.recipes.statistics import RecordStatistics, record_statistics

__all__ = [
    "BuildReport",
    "DataRecipe",
    "RecordStatistics",
    "SetReport",
    "SourceConfig",
    "SpecialistConfig",
    "build_data",
    "record_statistics",
]
