"""The systems as a recipe trains them: nver's own recipe, or the paper's.

A recipe is a table of systems for `nver.cross_validation.cross_validate`; it changes how networks
are trained (`nver.training.TrainingSettings`), not what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING

from nver import systems
from nver.registry import unknown

if TYPE_CHECKING:
    from nver.estimators import EmotionClassifier, FusionClassifier
    from nver.systems import SystemSpec

RECIPES = ("nver", "paper")
"""nver's (docs/recipe.md), and the paper's: Adam 1e-3, 50 epochs, stopped early."""


class PaperSystems:
    """The table of systems, its networks trained by `TrainingSettings.paper`."""

    COUPLINGS = systems.COUPLINGS
    SPANS = systems.SPANS
    fit_many = staticmethod(systems.fit_many)

    def get_system(self, name: str) -> SystemSpec:
        """Return the facts of a system, the recipe among its settings.

        Raises
        ------
        UnknownNameError
            If no table holds the name.
        """
        spec = systems.get_system(name)
        if not _is_network(spec):
            return spec
        from nver.training import TrainingSettings

        recipe = {"recipe": repr(TrainingSettings.paper())}
        return replace(spec, settings={**spec.settings, **recipe})

    def space(self, name: str) -> Mapping[str, float]:
        """Return nothing to tune: the recipe is as it was published."""
        systems.get_system(name)
        return {}

    def build(
        self, name: str, views: Mapping[str, slice], seed: int = 0, *, device: str = "cpu"
    ) -> EmotionClassifier | FusionClassifier:
        """Return the untrained estimator of a system; arguments and errors as `systems.build`."""
        model = systems.build(name, views, seed, device=device)
        if _is_network(systems.get_system(name)):
            from nver.training import TrainingSettings

            model.set_params(settings=TrainingSettings.paper())
        return model


def table(recipe: str) -> PaperSystems | ModuleType:
    """Return the table of systems of a recipe.

    Raises
    ------
    UnknownNameError
        If there is no such recipe.
    """
    if recipe not in RECIPES:
        raise unknown("recipe", recipe, RECIPES)
    return PaperSystems() if recipe == "paper" else systems


def _is_network(spec: SystemSpec) -> bool:
    return spec.settings.get("head") not in ("lda", "logreg")
