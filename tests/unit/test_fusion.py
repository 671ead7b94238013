"""Fusions: the formulas of MATA, the couplings, and what an inductive rule promises."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from nver.errors import SettingsError, UnknownNameError
from nver.fusion import (
    FUSIONS,
    BatchCoupling,
    Companions,
    EntropicMap,
    FusionShape,
    build_fusion,
)
from nver.fusion.coupling import TransportSettings
from nver.fusion.tokens import SelfAttention, token_count, tokens
from nver.training import seeded
from nver.transport import normalised_cost, sinkhorn

F64 = torch.float64
TWO = (slice(0, 12), slice(12, 30))
THREE = (*TWO, slice(30, 45))


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def _fusion(name, views=TWO, branch="fcn"):
    with seeded(0):
        return build_fusion(name, FusionShape(views, 4, branch, 0.3)).double().eval()


@pytest.mark.parametrize("branch", ["fcn", "cnn"])
@pytest.mark.parametrize("views", [TWO, THREE], ids=["two", "three"])
@pytest.mark.parametrize("name", FUSIONS.names())
def test_every_fusion_gives_a_logit_per_class_and_learns_from_every_view(name, views, branch):
    fusion = _fusion(name, views, branch)
    X = _random(7, views[-1].stop).requires_grad_()
    logits = fusion(X)
    assert logits.shape == (7, 4)
    logits.pow(2).sum().backward()
    for view in views:
        assert float(X.grad[:, view].abs().sum()) > 0
    assert all(p.grad is not None for p in fusion.parameters())


@pytest.mark.parametrize("name", FUSIONS.names())
def test_convolutional_branches_can_tell_clips_apart_behind_attention(name):
    """Untrained, in training mode: without standardising, all clips look alike to a LayerNorm."""
    with seeded(0):
        fusion = build_fusion(name, FusionShape(TWO, 4, "cnn", dropout=0.0))
    X = _random(32, 30).float()
    spread = [
        x.detach().std(dim=0).mean() / x.detach().mean(dim=0).std() for x in fusion.latents(X)
    ]
    assert min(spread) > 1


@pytest.mark.parametrize("name", FUSIONS.names())
def test_a_single_clip_has_logits(name):
    assert bool(torch.isfinite(_fusion(name)(_random(1, 30))).all())


def test_the_batch_coupling_is_the_papers_equations():
    x, y = _random(6, 5), _random(6, 5, seed=1)
    moved = BatchCoupling(TransportSettings(tolerance=0.0)).move([x, y])
    plan = sinkhorn(normalised_cost(x, y), eps=0.05, iterations=50, tolerance=0.0).plan
    torch.testing.assert_close(moved[0, 1], 6 * plan @ y)
    torch.testing.assert_close(moved[1, 0], 6 * plan.T @ x)


def test_a_batch_of_one_clip_is_moved_onto_itself():
    x, y = _random(1, 5), _random(1, 5, seed=1)
    moved = BatchCoupling().move([x, y])
    torch.testing.assert_close(moved[0, 1], y)
    torch.testing.assert_close(moved[1, 0], x)


def test_the_papers_six_tokens_in_their_order():
    a, b = _random(2, 3), _random(2, 3, seed=1)
    moved = {(0, 1): _random(2, 3, seed=2), (1, 0): _random(2, 3, seed=3)}
    expected = torch.stack([moved[0, 1], a, b, moved[1, 0], b, a], dim=1)
    torch.testing.assert_close(tokens([a, b], moved), expected)


def test_three_encoders_have_six_ordered_pairs():
    latents = [_random(4, 3, seed=s) for s in range(3)]
    moved = BatchCoupling().move(latents)
    assert set(moved) == set(permutations(range(3), 2))
    assert tokens(latents, moved).shape == (4, token_count(3), 3)
    assert token_count(3) == 18


def test_the_attention_is_torchs():
    with seeded(0):
        mine = SelfAttention(120).double().eval()
    theirs = torch.nn.MultiheadAttention(120, 8, batch_first=True, dtype=F64).eval()
    theirs.load_state_dict(
        {
            "in_proj_weight": mine.inner.weight,
            "in_proj_bias": mine.inner.bias,
            "out_proj.weight": mine.outer.weight,
            "out_proj.bias": mine.outer.bias,
        }
    )
    x = _random(3, 6, 120)
    expected = mine.norm(x + theirs(x, x, x, need_weights=False)[0])
    torch.testing.assert_close(mine(x), expected)


def test_late_fusion_is_the_mean_of_its_heads_logits():
    late, X = _fusion("late"), _random(5, 30)
    expected = (late.branches[0](X[:, :12]) + late.branches[1](X[:, 12:])) / 2
    torch.testing.assert_close(late(X), expected)


def test_the_plan_gradient_reaches_the_branches_only_when_asked():
    X = _random(6, 30)
    gradients = []
    for wanted in (False, True):
        shape = FusionShape(TWO, 4, transport=TransportSettings(plan_gradient=wanted))
        with seeded(0):
            mata = build_fusion("mata", shape).double().eval()
        mata(X).pow(2).sum().backward()
        gradients.append(mata.branches[0][0].weight.grad)
    assert not torch.allclose(*gradients)


@pytest.mark.parametrize("coupling", ["companions", "map"])
@pytest.mark.parametrize("name", ["transport", "mata"])
def test_inductive_couplings_see_one_clip_at_a_time(name, coupling):
    fusion = _fusion(name)
    references = fusion.latents(_random(9, 30, seed=5))
    rule = {"companions": Companions, "map": EntropicMap}[coupling](references)
    X = _random(11, 30)
    together = fusion(X, rule)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(fusion(X[order], rule), together[order], atol=1e-12, rtol=0)
    alone = torch.cat([fusion(X[i : i + 1], rule) for i in range(11)])
    torch.testing.assert_close(alone, together, atol=1e-12, rtol=0)


def test_the_batch_coupling_does_depend_on_the_other_clips():
    fusion, X = _fusion("mata"), _random(11, 30)
    alone = torch.cat([fusion(X[i : i + 1]) for i in range(11)])
    assert not torch.allclose(alone, fusion(X), atol=1e-3)


def test_companions_give_what_a_batch_with_them_gives():
    references = [_random(5, 4, seed=s) for s in (1, 2)]
    clip = [_random(1, 4, seed=s) for s in (3, 4)]
    among = BatchCoupling().move([torch.cat(pair) for pair in zip(clip, references, strict=True)])
    moved = Companions(references).move(clip)
    for key, image in moved.items():
        torch.testing.assert_close(image, among[key][:1])


def test_more_clips_than_fit_at_once_change_nothing(monkeypatch):
    rule = Companions([_random(5, 4, seed=s) for s in (1, 2)])
    latents = [_random(7, 4, seed=s) for s in (3, 4)]
    expected = rule.move(latents)
    monkeypatch.setattr("nver.fusion.coupling.CLIPS_AT_ONCE", 3)
    for key, image in rule.move(latents).items():
        torch.testing.assert_close(image, expected[key])


def test_the_map_sends_references_where_their_plan_does():
    references = [_random(8, 4, seed=s) for s in (1, 2)]
    settings = TransportSettings(iterations=5000, tolerance=1e-10)
    moved = EntropicMap(references, settings).move(references)
    among = BatchCoupling(settings).move(references)
    for key, image in moved.items():
        torch.testing.assert_close(image, among[key], atol=1e-7, rtol=0)


def test_one_encoder_is_no_fusion():
    with pytest.raises(SettingsError) as caught:
        build_fusion("mata", FusionShape((slice(0, 4),), 2))
    assert str(caught.value) == (
        "A fusion needs the views of at least two encoders, got 1. "
        "For one encoder use EmotionClassifier."
    )


def test_unknown_names_get_the_nearest():
    with pytest.raises(UnknownNameError, match=r"^Unknown fusion 'matta'\. Did you mean 'mata'\?"):
        build_fusion("matta", FusionShape(TWO, 2))
    with pytest.raises(SettingsError, match=r"^A branch is 'fcn' or 'cnn', got 'rnn'\.$"):
        build_fusion("mata", FusionShape(TWO, 2, "rnn"))
