"""Recipes: the paper's trains networks as it says, and changes nothing else."""

from __future__ import annotations

import pytest

from nver import recipes, systems
from nver.config import Settings
from nver.errors import UnknownNameError
from nver.training import TrainingSettings

ONE = {"a": slice(0, 4)}
TWO = {"a": slice(0, 4), "b": slice(4, 8)}


@pytest.mark.parametrize(
    ("name", "views"), [("fcn", ONE), ("cnn", ONE), ("concat", TWO), ("mata-cnn", TWO)]
)
def test_networks_are_trained_as_the_paper_says(name, views):
    paper = recipes.table("paper")
    assert paper.build(name, views, 3).settings == TrainingSettings.paper()
    assert paper.build(name, views, 3).random_state == 3
    assert paper.build(name, views, device="cuda").device == "cuda"
    assert systems.build(name, views).settings is None


def test_finished_trainings_of_another_recipe_are_not_taken():
    """The key of a finished training holds the settings of its system."""
    own, paper = systems.get_system("mata"), recipes.table("paper").get_system("mata")
    assert own.settings != paper.settings
    assert "epochs=50" in paper.settings["recipe"]
    assert (own.rules, own.kind, own.name) == (paper.rules, paper.kind, paper.name)


def test_linear_systems_have_no_recipe():
    paper = recipes.table("paper")
    assert paper.get_system("concat-lda") == systems.get_system("concat-lda")
    assert paper.build("lda", ONE).settings is None
    assert paper.space("mata") == {}


def test_an_unknown_recipe_gets_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'paper'"):
        recipes.table("papr")
    with pytest.raises(UnknownNameError, match="Unknown recipe 'papers'"):
        Settings("jnv", ("spectral",), recipe="papers")
