"""Members trained at once: each ends as it does alone, whatever its neighbours are.

Whole trainings are compared in float64: in float32 a ReLU or a maximum that rounding decides
otherwise changes a gradient, and training makes more of it.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from nver.errors import SettingsError
from nver.estimators import EmotionClassifier, fit_many
from nver.fusion import FUSIONS, FusionShape, attention_core, batch_plans, build_fusion
from nver.heads import Batch, build_head, layers, standardise
from nver.training import (
    TrainingSettings,
    batches,
    finishing,
    loop,
    loops,
    pack_size,
    randomness,
    seeded,
    stack,
    train_members,
)
from nver.training.loop import _Pack
from nver.training.optimiser import FlatAdamW, FusedAdamW
from nver.training.randomness import Draws, order_generator

CPU = torch.device("cpu")
VIEWS = (slice(0, 14), slice(14, 30))
SHORT = TrainingSettings(epochs=5, min_steps=0)
STOPPING = replace(TrainingSettings.paper(), epochs=8, patience=1, validation=0.3)
# Two batches of 32, two of 32 and 20, one of 39, one of 24: last ones and step counts differ.
SIZES = (64, 52, 39, 24)
NETWORKS = [
    *(
        (f"{fusion}-{branch}", fusion, branch)
        for fusion in FUSIONS.names()
        for branch in ("fcn", "cnn")
    ),
    ("fcn", None, "fcn"),
    ("cnn", None, "cnn"),
]


def _network(fusion, branch, seed):
    with seeded(seed):
        if fusion is None:
            return build_head(branch, 30, 3, 0.4).double()
        return build_fusion(fusion, FusionShape(VIEWS, 3, branch, 0.4)).double()


def _data(sizes=SIZES, columns=30):
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, columns, generator=generator, dtype=torch.float64)
    found = []
    for size in sizes:
        y = torch.arange(size) % 3
        found.append((centres[y] + 3 * torch.randn(size, columns, generator=generator), y))
    return found


def _trained(make, settings, at_once, members=range(4)):
    networks = [make(seed) for seed in members]
    data = _data()
    histories = train_members(
        networks,
        [data[m] for m in members],
        settings,
        seeds=[10 + m for m in members],
        groups=[torch.arange(SIZES[m]) // 4 for m in members],
        at_once=at_once,
    )
    return networks, histories


@pytest.mark.parametrize("settings", [SHORT, STOPPING], ids=["default", "early stopping"])
@pytest.mark.parametrize(
    ("fusion", "branch"), [n[1:] for n in NETWORKS], ids=[n[0] for n in NETWORKS]
)
def test_every_member_ends_as_it_does_alone(fusion, branch, settings):
    def make(seed):
        return _network(fusion, branch, seed)

    together, told = _trained(make, settings, 4)
    for m, network in enumerate(together):
        (alone,), (history,) = _trained(make, settings, 1, [m])
        before = make(m).state_dict()
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(network.state_dict()[name], value, atol=1e-7, rtol=1e-6)
            if name.endswith("weight"):
                assert not torch.equal(value, before[name])
        assert told[m].best_epoch == history.best_epoch
        assert told[m].training_loss == pytest.approx(history.training_loss, rel=1e-6)
        assert told[m].validation_loss == pytest.approx(history.validation_loss, rel=1e-6)


def test_the_number_at_once_and_the_order_change_nothing():
    def make(seed):
        return _network("mata", "fcn", seed)

    expected, _ = _trained(make, SHORT, 1)
    for at_once in (2, 3):
        found, _ = _trained(make, SHORT, at_once)
        for a, b in zip(found, expected, strict=True):
            for mine, theirs in zip(a.parameters(), b.parameters(), strict=True):
                torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-7)
    backwards, _ = _trained(make, SHORT, 4, [3, 2, 1, 0])
    for a, b in zip(backwards, expected[::-1], strict=True):
        torch.testing.assert_close(a.classifier.out.bias, b.classifier.out.bias)


@pytest.mark.parametrize("branch", ["fcn", "cnn"])
def test_the_operations_of_other_devices_train_the_same(monkeypatch, branch):
    """On a CPU here: no compiled loops, all parameters one matrix, every batch filled up.

    Noise is float32 either way.
    """

    def make(seed):
        return _network("mata", branch, seed)

    expected, _ = _trained(make, STOPPING, 4)
    monkeypatch.setattr(loop, "optimiser", FlatAdamW)
    for module in (attention_core, batch_plans, randomness, layers, standardise):
        monkeypatch.setattr(module, "loops_work", lambda *_: False)
    monkeypatch.setattr("nver.heads.networks.loops_work", lambda _: False)
    monkeypatch.setattr(sys.modules["nver.training.batches"], "_fills_up", lambda _: True)
    found, _ = _trained(make, STOPPING, 4)
    for a, b in zip(found, expected, strict=True):
        for mine, theirs in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-7, rtol=1e-6)


def test_float32_takes_the_steps_of_float64():
    """Also at biases before a standardisation, which rounding alone once moved by 2e-4.

    Two members of unequal batches, ten steps: in longer ones rounding grows (docs/benchmarks.md).
    """
    settings, ends = replace(SHORT, input_noise=0.0), []
    for dtype in (torch.float32, torch.float64):
        networks = [_network("concat", "cnn", seed).to(dtype) for seed in (0, 1)]
        data = [(X.to(dtype), y) for X, y in _data()[:2]]
        train_members(networks, data, settings, seeds=(0, 1))
        ends.append([network.double() for network in networks])
    for mine, theirs in zip(*ends, strict=True):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=0)


def test_the_same_pack_gives_the_same_bits():
    first, second = (_trained(lambda s: _network("mata", "fcn", s), SHORT, 4)[0] for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert all(map(torch.equal, a.parameters(), b.parameters()))


@pytest.mark.parametrize("fusion", ["concat", "mata"])
def test_a_member_is_what_a_plain_loop_with_torchs_adamw_makes(fusion):
    settings, seed = SHORT, 7
    X, y = _data([52])[0]
    network, plain = (_network(fusion, "fcn", 0) for _ in range(2))
    train_members([network], [(X, y)], settings, seeds=[seed])

    optimiser = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=1.0, foreach=False)
    draws = Draws(plain, [seed], settings.input_noise, CPU)
    order = order_generator(seed)
    for epoch in range(settings.epochs):
        steps = batches(torch.randperm(len(y), generator=order), settings.batch_size)
        for step, rows in enumerate(steps):
            done = (epoch + step / len(steps)) / settings.epochs
            optimiser.param_groups[0]["lr"] = 1e-3 * (1 + np.cos(np.pi * done)) / 2
            draws.plan([[len(rows)]], [len(rows)], X.shape[1])
            draws.draw()
            inputs = X[rows].unsqueeze(0)
            draws.add_noise(inputs)

            def bits(layer):
                found = draws.bits(layer)
                return found if layer is plain.attention else found[0]

            if fusion == "concat":
                plain.attention = None
            loss = cross_entropy(plain(inputs[0], Batch(None, bits)), y[rows], label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    for mine, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("kind", [FusedAdamW, FlatAdamW])
def test_the_optimiser_is_torchs_for_every_member_and_leaves_passive_ones_alone(kind):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 4, 5, generator=generator)
    stacked = start.clone().requires_grad_()
    other = start[:, :2].clone().requires_grad_()
    mine = kind([stacked, other], weight_decay=0.5)
    alone = [start[m].clone().requires_grad_() for m in range(3)]
    theirs = [torch.optim.AdamW([p], lr=1.0, weight_decay=0.5, foreach=False) for p in alone]
    plans = [(0.1, 0.1, 0.1), (0.1, None, 0.1), (0.2, 0.1, 0.05), (None, None, 0.1)]
    mine.plan(plans)
    for rates in plans:
        gradient = torch.randn(3, 4, 5, generator=generator)
        stacked.grad, other.grad = gradient.clone(), gradient[:, :2].clone()
        mine.step()
        assert stacked.grad is None
        for m, rate in enumerate(rates):
            if rate is not None:
                theirs[m].param_groups[0]["lr"] = rate
                alone[m].grad = gradient[m].clone()
                theirs[m].step()
        torch.testing.assert_close(stacked.detach(), torch.stack(alone).detach())
        torch.testing.assert_close(other.detach(), torch.stack(alone).detach()[:, :2])
    assert mine.counts == [3, 2, 4]
    left, less = (part.detach()[[2, 0]].clone().requires_grad_() for part in (stacked, other))
    mine.keep([2, 0], [left, less])
    gradient = torch.randn(2, 4, 5, generator=generator)
    left.grad = gradient.clone()
    mine.plan([[0.1, 0.1]])
    mine.step()
    for place, m in enumerate((2, 0)):
        theirs[m].param_groups[0]["lr"] = 0.1
        alone[m].grad = gradient[place].clone()
        theirs[m].step()
        torch.testing.assert_close(left[place].detach(), alone[m].detach())


def test_members_that_have_stopped_are_worked_on_no_more(monkeypatch):
    """The sizes of the stack go down as members stop, to as many steps as each took alone."""
    seen = []
    whole = _Pack._train

    def counted(self, epoch):
        seen.append([member.number for member in self.members])
        assert all(len(p) == len(self.members) for p in self.network.parameters())
        whole(self, epoch)

    monkeypatch.setattr(_Pack, "_train", counted)
    _, histories = _trained(lambda s: _network("concat", "fcn", s), STOPPING, 4)
    epochs = [len(history.training_loss) for history in histories]
    assert [sum(m in members for members in seen) for m in range(4)] == epochs
    assert len(seen) == max(epochs)
    assert min(epochs) < max(epochs)


def test_a_member_is_handed_over_when_it_finishes_and_the_rest_can_be_trained_later(monkeypatch):
    """What a killed run does: it keeps who has finished, and trains the others another time."""
    epochs = []
    whole = _Pack._train
    monkeypatch.setattr(
        _Pack, "_train", lambda self, epoch: epochs.append(epoch) or whole(self, epoch)
    )

    def make(seed):
        return _network("mata", "fcn", seed)

    expected, histories = _trained(make, STOPPING, 4)
    networks, data = [make(seed) for seed in range(4)], _data()
    more = {"seeds": range(10, 14), "groups": [torch.arange(size) // 4 for size in SIZES]}
    epochs.clear()
    turns = finishing(networks, data, STOPPING, **more)
    first, history = next(turns)
    turns.close()
    assert history == histories[first]
    assert len(epochs) == len(history.training_loss) < max(len(h.training_loss) for h in histories)
    rest = [m for m in range(4) if m != first]
    later, _ = _trained(make, STOPPING, 4, rest)
    for found, m in zip([networks[first], *later], [first, *rest], strict=True):
        for mine, theirs in zip(found.parameters(), expected[m].parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-7, rtol=1e-6)


def test_what_a_member_draws_depends_on_its_seed_and_its_clips_alone():
    layer = _network("concat", "fcn", 0)
    shapes = [([5], 0), ([5, 8], 0), ([8, 0, 5], 2)]
    seeds = [[3], [3, 4], [4, 9, 3]]
    found = []
    for (counts, place), own in zip(shapes, seeds, strict=True):
        draws = Draws(layer, own, 0.5, CPU)
        draws.plan([counts] * 2, [max(counts)] * 2, 30)
        draws.draw()
        draws.draw()
        inputs = torch.zeros(len(counts), max(counts), 30)
        draws.add_noise(inputs)
        bits = draws.bits(layer.classifier.hidden.dropout)
        found.append((bits[place, :5].clone(), inputs[place, :5]))
    for bits, noise in found[1:]:
        assert torch.equal(bits, found[0][0])
        assert torch.equal(noise, found[0][1])


def test_loops_and_torch_draw_the_same(monkeypatch):
    layer = _network("mata", "fcn", 0)
    found = []
    assert randomness.loops_work()
    for work in (True, False):
        monkeypatch.setattr(randomness, "loops_work", lambda work=work: work)
        draws = Draws(layer, [3, 2**40], 0.5, CPU)
        draws.plan([[5, 3], [4, 8]], [5, 8], 29)
        draws.draw()
        draws.draw()
        inputs = torch.ones(2, 8, 29)
        draws.add_noise(inputs)
        found.append((draws.bits(layer.attention), inputs))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(*(inputs for _, inputs in found), atol=2e-6, rtol=0)
    assert float((found[0][1] - 1).std()) == pytest.approx(0.5, abs=0.05)


def test_a_stream_is_splitmix64():
    """The first numbers of Vigna's splitmix64.c, seed 1234567 (Rosetta Code's test)."""
    given = torch.tensor([1234567 + loops.GOLDEN])
    found = [int(number) % 2**64 for number in randomness.numbers(given, 1, 3).flatten()]
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_bits_are_even_and_noise_is_gaussian():
    draws = Draws(_network("concat", "fcn", 0), [0], 0.5, CPU)
    draws.plan([[4000]], [4000], 30)
    draws.draw()
    noise = torch.zeros(1, 4000, 30)
    draws.add_noise(noise)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(0.5, abs=0.005)
    drawn = [bits.flatten() for bits in draws._bits.values()]
    bits = torch.cat(drawn).view(torch.int16).view(-1, 4).to(torch.int32) + 2**15
    assert (bits.double().mean(0) / 65536).tolist() == pytest.approx([0.5] * 4, abs=0.005)
    for bit in range(16):
        share = ((bits >> bit) & 1).double().mean(0)
        assert share.tolist() == pytest.approx([0.5] * 4, abs=0.01)


def test_a_pack_fits_the_cache_and_has_a_member_at_least():
    assert pack_size("cpu", 10_000_000) == 1
    assert pack_size("cpu", 100_000) > pack_size("cpu", 400_000) > 1


def test_networks_of_unequal_shape_are_refused():
    networks = [build_head("fcn", 4, classes, 0.1) for classes in (2, 3)]
    data = [(torch.zeros(4, 4), torch.tensor([0, 1, 0, 1]))] * 2
    with pytest.raises(SettingsError, match="must have the same layers and sizes"):
        train_members(networks, data, SHORT, seeds=[0, 1], at_once=2)


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(SettingsError) as caught:
        train_members([], [], SHORT, seeds=[0])
    assert str(caught.value) == (
        "Expected data, a seed and groups for each of 0 networks, got 0, 1 and 0."
    )
    with pytest.raises(SettingsError, match="as many estimators as data, got 1 and 0"):
        fit_many([EmotionClassifier()], [])


def test_nothing_to_train_is_no_error():
    assert train_members([], [], SHORT, seeds=[]) == []
    assert fit_many([], []) == []


def test_a_stack_leaves_its_networks_alone_and_gives_them_back():
    networks = [_network("mata", "cnn", seed) for seed in range(3)]
    whole = stack.stack(networks, CPU)
    for m, network in enumerate(networks):
        state = stack.member_state(whole, m)
        assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    stack.keep(whole, [2, 0])
    for place, m in enumerate((2, 0)):
        for name, value in networks[m].state_dict().items():
            assert torch.equal(stack.member_state(whole, place)[name], value)
