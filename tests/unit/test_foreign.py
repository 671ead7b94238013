"""Fusions that are no part of nver: what breaks the contract is refused before it is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nver.errors import SettingsError
from nver.estimators import FusionClassifier
from nver.estimators.foreign import check_fusion
from nver.fusion import FUSIONS, Fusion
from nver.heads import Classifier, Linear


class Gated(Fusion):
    """Weighs the encoders along an axis."""

    axis = -1

    def __init__(self, shape):
        super().__init__(shape, shape.branches())
        self.gate = Linear(shape.branch_width, 1)
        self.classifier = Classifier(shape.branch_width, shape.classes, shape.dropout, shape.hidden)

    def join(self, latents, moved, batch):
        weights = torch.softmax(torch.cat([self.gate(x) for x in latents], dim=-1), dim=self.axis)
        mixed = sum(weights[..., k, None] * x for k, x in enumerate(latents))
        return self.classifier(mixed, batch)


class Front(Gated):
    axis = 1


class AcrossClips(Gated):
    axis = -2


class OfTorch(Gated):
    def __init__(self, shape):
        super().__init__(shape)
        self.gate = torch.nn.Linear(shape.branch_width, 1)


class Drops(Gated):
    def __init__(self, shape):
        super().__init__(shape)
        self.drop = torch.nn.Dropout(0.5)


class OneLogit(Gated):
    def join(self, latents, moved, batch):
        return super().join(latents, moved, batch)[..., :1]


class MovedAcrossClips(Gated):
    couples = True

    def join(self, latents, moved, batch):
        mean = moved[0, 1].mean(dim=-2, keepdim=True)
        return super().join([x + mean for x in latents], moved, batch)


@pytest.mark.parametrize("branch", ["fcn", "cnn"])
@pytest.mark.parametrize("kind", [Gated, *map(FUSIONS.load, FUSIONS.names())])
def test_what_keeps_the_contract_passes(kind, branch):
    for encoders in (2, 3):
        check_fusion(kind, encoders, branch)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Front, "does not do for several members at once"),
        (OfTorch, "does not do for several members at once"),
        (AcrossClips, "gives a clip other logits among other clips"),
        (MovedAcrossClips, "gives a clip other logits among other clips"),
        (Drops, "has a dropout layer of torch"),
        (OneLogit, r"must give logits \[clips, classes\], \[5, 3\] here, and gave \[5, 1\]\."),
    ],
)
def test_what_breaks_it_is_told_how(kind, said):
    with pytest.raises(SettingsError, match=f"^Fusion '{kind.__name__}' {said}.*add-a-fusion.md"):
        check_fusion(kind, 2, "fcn")


def test_a_fusion_is_tried_before_it_is_trained(tmp_path):
    (tmp_path / "own.py").write_text(
        "from nver.fusion import FUSIONS\n\n\nclass Own(FUSIONS.load('late')):\n"
        "    def join(self, latents, moved, batch):\n"
        "        return super().join(latents, moved, batch)[..., :1]\n"
    )
    model = FusionClassifier(fusion=f"{tmp_path / 'own.py'}:Own")
    with pytest.raises(SettingsError, match="Fusion 'Own' must give logits"):
        model.fit(np.zeros((8, 4)) + np.arange(8)[:, None], np.tile(["a", "b"], 4))
