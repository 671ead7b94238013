"""The training loop: determinism, early stopping, what happens with hardly any clips."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from nver import training
from nver.errors import SettingsError
from nver.heads import FCN
from nver.training import TrainingSettings, seeded, train, validation_split

SHORT = TrainingSettings(epochs=4, min_steps=0)


def _blobs(per_class=20, classes=3, dim=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(classes).repeat(per_class)
    centres = 3 * torch.randn(classes, dim, generator=generator)
    return centres[y] + torch.randn(len(y), dim, generator=generator), y


def _fcn(seed=0, dim=6, classes=3):
    with seeded(seed):
        return FCN(dim, classes, dropout=0.5)


def _generator():
    return torch.Generator().manual_seed(0)


def test_training_learns():
    X, y = _blobs()
    model = _fcn()
    history = train(model, X, y, TrainingSettings(), seed=0)
    assert history.training_loss[-1] < history.training_loss[0]
    assert float((model(X).argmax(1) == y).float().mean()) > 0.9
    assert not model.training


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    X, y = _blobs()
    outputs = []
    for seed in (0, 0, 1):
        model = _fcn(0)
        train(model, X, y, SHORT, seed=seed)
        outputs.append(model(X).detach())
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_the_global_generator_is_left_as_it_was():
    X, y = _blobs()
    before = torch.get_rng_state()
    train(_fcn(), X, y, SHORT, seed=3)
    assert torch.equal(before, torch.get_rng_state())


def test_what_was_drawn_globally_before_changes_nothing():
    X, y = _blobs()
    outputs = []
    for draws in (0, 17):
        torch.rand(draws)
        model = _fcn()
        train(model, X, y, SHORT, seed=0)
        outputs.append(model(X).detach())
    assert torch.equal(*outputs)


class _Scripted(nn.Module):
    """A model whose only weight walks with each step, so that its validation loss is known."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, X, batch=None):
        score = X[..., 0] * self.weight.unsqueeze(-1)
        return torch.stack([score, -score], dim=-1)


def test_early_stopping_restores_the_best_epoch():
    """Held-out speakers say the opposite of the rest: every epoch makes them worse."""
    X = torch.ones(40, 1)
    X[20:] = -1.0
    y = (X[:, 0] < 0).long()
    groups = torch.arange(20).repeat_interleave(2)
    settings = replace(TrainingSettings.paper(), patience=3, epochs=30, learning_rate=0.1)
    _, held = validation_split(y, groups, 0.1, _generator())
    y[held] = 1 - y[held]
    model = _Scripted()
    history = train(model, X, y, settings, seed=0, groups=groups)
    assert history.note == ""
    assert history.best_epoch == 0
    assert len(history.validation_loss) == 4
    assert history.validation_loss[0] == min(history.validation_loss)
    # Two steps of Adam with rate 0.1 make one epoch.
    assert 0 < model.weight.item() < 0.21


def test_held_out_speakers_are_whole_and_about_a_tenth():
    y = torch.arange(4).repeat(50)
    groups = torch.arange(20).repeat_interleave(10)
    kept, held = validation_split(y, groups, 0.1, _generator())
    assert not set(groups[kept].tolist()) & set(groups[held].tolist())
    assert len(held) == 20
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(200))


def test_without_speakers_each_class_gives_its_tenth():
    y = torch.tensor([0] * 40 + [1] * 20 + [2] * 3)
    kept, held = validation_split(y, None, 0.1, _generator())
    assert torch.bincount(y[held], minlength=3).tolist() == [4, 2, 0]
    assert torch.bincount(y[kept], minlength=3).tolist() == [36, 18, 3]


@pytest.mark.parametrize(
    ("y", "groups"),
    [
        ([0, 1, 0, 1], [0, 0, 0, 0]),  # one speaker
        ([0, 0, 1, 1], [0, 0, 1, 1]),  # each class has its own speaker
        ([0, 1, 2], None),  # one clip per class
    ],
)
def test_where_nothing_can_be_held_out_all_epochs_run_on_all_clips(y, groups):
    y = torch.tensor(y)
    groups = None if groups is None else torch.tensor(groups)
    assert validation_split(y, groups, 0.1, _generator()) is None
    settings = replace(TrainingSettings.paper(), epochs=3)
    X = torch.randn(len(y), 6, generator=_generator())
    history = train(_fcn(classes=int(y.max()) + 1), X, y, settings, seed=0, groups=groups)
    assert len(history.training_loss) == 3
    assert history.validation_loss == ()
    assert history.note == "no speaker or class can be held out"


def test_the_default_recipe_holds_nothing_out():
    X, y = _blobs()
    history = train(_fcn(), X, y, SHORT, seed=0)
    assert history.note == "not asked for"
    assert history.best_epoch == 3


def test_fewer_clips_than_a_batch_train():
    X, y = _blobs(per_class=1)
    assert train(_fcn(), X, y, SHORT, seed=0).training_loss[-1] > 0


def test_the_papers_recipe():
    paper = TrainingSettings.paper()
    assert (paper.epochs, paper.batch_size, paper.learning_rate) == (50, 32, 1e-3)
    assert (paper.weight_decay, paper.label_smoothing, paper.input_noise) == (0, 0, 0)
    assert not paper.cosine
    assert paper.patience > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must lie in [1, inf], got 0."),
        ({"dropout": 1.0}, "dropout must lie in [0, 0.999], got 1.0."),
        ({"validation": 0.7}, "validation must lie in [1e-12, 0.5], got 0.7."),
        ({"learning_rate": float("nan")}, "learning_rate must lie in [1e-12, inf], got nan."),
    ],
)
def test_settings_outside_their_range_are_refused(change, message):
    with pytest.raises(SettingsError) as caught:
        TrainingSettings(**change)
    assert str(caught.value) == message


def test_the_learning_rate_falls_along_half_a_cosine():
    settings = TrainingSettings(epochs=10, learning_rate=1.0)
    rates = [training.learning_rate(settings, epoch) for epoch in (0.0, 2.0, 5.0, 10.0)]
    expected = [1.0, 0.9045, 0.5, 0.0]
    assert rates == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("clips", "batches", "epochs"),
    [
        (20, [20], 100),
        (39, [39], 100),  # a remainder of 7 joins the batch before
        (40, [32, 8], 50),
        (800, [32] * 25, 10),  # 1,000 clips in five folds: as the recipe says
    ],
)
def test_few_clips_get_more_epochs_and_no_tiny_batch(clips, batches, epochs):
    parts = training.batches(torch.arange(clips), 32)
    assert [len(part) for part in parts] == batches
    assert torch.equal(torch.cat(parts), torch.arange(clips))
    assert TrainingSettings.convolutional().for_clips(clips).epochs == epochs
    assert TrainingSettings.paper().for_clips(clips).epochs == 50


def test_training_runs_the_epochs_that_the_clips_get():
    X, y = _blobs(per_class=5)
    history = train(_fcn(), X, y, TrainingSettings(epochs=2, min_steps=6), seed=0)
    assert len(history.training_loss) == 6
    assert history.best_epoch == 5
