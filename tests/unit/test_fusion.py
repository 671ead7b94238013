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
    attention_core,
    batch_plans,
    build_fusion,
)
from nver.fusion.attending import DROPOUT, SelfAttention
from nver.fusion.attention_inputs import HEADS
from nver.fusion.coupling import Mapped, TransportSettings
from nver.fusion.tokens import (
    distinct_tokens,
    token_copies,
    token_images,
)
from nver.heads import Batch
from nver.training import seeded, stack
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
    batch = Batch(None, lambda layer: torch.zeros(32, layer.units, dtype=torch.int16))
    latents = [x.detach() for x in fusion.latents(X, batch)]
    spread = [x.std(dim=0).mean() / x.mean(dim=0).std() for x in latents]
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
    expected = torch.stack([moved[0, 1], a, b, moved[1, 0], b, a])
    distinct = torch.stack(distinct_tokens([a, b], moved))
    torch.testing.assert_close(distinct[list(token_copies(2))], expected)


@pytest.mark.parametrize("name", ["attention", "mata"])
def test_five_encoders_train_too(name):
    """Many copies of a token all but never vanish together: rarer than a bit can say."""
    five = tuple(slice(6 * i, 6 * i + 6) for i in range(5))
    fusion = _fusion(name, five).train()
    assert fusion(_random(9, 30)).shape == (9, 4)
    levels = fusion.attention.levels
    assert (levels.int().diff(dim=0) >= 0).all()


def test_three_encoders_have_six_ordered_pairs():
    latents = [_random(4, 3, seed=s) for s in range(3)]
    moved = BatchCoupling().move(latents)
    assert set(moved) == set(permutations(range(3), 2))
    copied = torch.stack(distinct_tokens(latents, moved))[list(token_copies(3))]
    pairs = permutations(range(3), 2)
    expected = [part for i, j in pairs for part in (moved[i, j], latents[i], latents[j])]
    assert len(expected) == 18
    torch.testing.assert_close(copied, torch.stack(expected))


def _torchs_attention(mine):
    """Return torch's attention with the weights of `mine`."""
    theirs = torch.nn.MultiheadAttention(120, 8, batch_first=True, dtype=F64).eval()
    theirs.load_state_dict(
        {
            "in_proj_weight": mine.inner.weight,
            "in_proj_bias": mine.inner.bias,
            "out_proj.weight": mine.outer.weight,
            "out_proj.bias": mine.outer.bias,
        }
    )
    return theirs


def _by_token(out, layer):
    """Return [tokens, clips, width] from a clip's tokens side by side."""
    return out.unflatten(-1, (len(layer.counts), -1)).transpose(-3, -2)


@pytest.fixture(params=["compiled", "torch"])
def sums(request, monkeypatch):
    """Run with the compiled loops and without."""
    if request.param == "compiled":
        pytest.importorskip("numba")
        assert attention_core.loops_work(F64)
    else:
        monkeypatch.setattr(attention_core, "loops_work", lambda _: False)


@pytest.mark.usefixtures("sums")
@pytest.mark.parametrize("copies", [(0, 1), (2, 0, 1, 3, 1, 0), token_copies(3)], ids=len)
def test_the_attention_is_torchs_and_so_are_its_gradients(copies):
    with seeded(0):
        mine = SelfAttention(120, copies).double()
    theirs = _torchs_attention(mine)
    x = _random(max(copies) + 1, 3, 120).requires_grad_()
    tokens_first = x[list(copies)].transpose(0, 1)
    attended = theirs(tokens_first, tokens_first, tokens_first, need_weights=False)[0]
    expected = mine.norm(tokens_first + attended).transpose(0, 1)
    found = mine(x.unbind())
    counted = _by_token(found, mine) / mine.counts[:, None, None]
    torch.testing.assert_close(counted[list(copies)], expected, atol=1e-12, rtol=1e-10)
    upstream = _random(*x.shape, seed=1)
    outer = [mine.outer.weight, mine.inner.bias, mine.inner.weight]
    outside = [theirs.out_proj.weight, theirs.in_proj_bias, theirs.in_proj_weight]
    got = torch.autograd.grad(_by_token(found, mine), [x, *outer], upstream)
    wanted = torch.autograd.grad(expected, [x, *outside], upstream[list(copies)])
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-9)


@pytest.mark.usefixtures("sums")
def test_a_stack_of_attentions_with_dropped_weights_has_the_gradient_of_finite_differences():
    with seeded(0):
        layers = [SelfAttention(16, (2, 0, 1, 3, 1, 0)).double() for _ in range(2)]
    whole = stack.stack(layers, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**15), 2**15, (2, 3, whole.units), generator=generator)
    bits = bits.to(torch.int16)
    x = _random(2, 4, 3, 16).requires_grad_()
    out = whole(x.unbind(1), Batch(None, lambda _: bits))
    for m, layer in enumerate(layers):
        alone = layer(x[m].unbind(), Batch(None, lambda _, m=m: bits[m : m + 1]))
        torch.testing.assert_close(out[m], alone, atol=1e-12, rtol=1e-10)
    whole.requires_grad_(False)
    batch = Batch(None, lambda _: bits)
    assert torch.autograd.gradcheck(lambda x: whole(x.unbind(1), batch), [x], fast_mode=True)


@pytest.mark.usefixtures("sums")
@pytest.mark.parametrize("encoders", [2, 3])
def test_images_are_attended_to_as_tokens_of_their_own(encoders):
    """Where the plan is a matrix, projections are moved in place of tokens: the same, and so are
    the gradients at latents, weights and the matrices."""
    with seeded(0):
        layer = SelfAttention(16, token_copies(encoders)).double()
    latents = [_random(5, 16, seed=s).requires_grad_() for s in range(encoders)]
    pairs = enumerate(permutations(range(encoders), 2))
    maps = {pair: _random(5, 5, seed=10 + seed).requires_grad_() for seed, pair in pairs}
    moved = Mapped(latents, maps)
    upstream = _random(5, encoders**2 * 16, seed=3)
    found = []
    for images in ([], token_images(encoders, maps)):
        own = latents if images else distinct_tokens(latents, moved)
        out = layer(own, None, images)
        inputs = [*latents, *maps.values(), *layer.parameters()]
        found.append((out, *torch.autograd.grad(out, inputs, upstream, retain_graph=True)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("clips", [1, 8, 16, 17, 33])
def test_any_number_of_clips_attends_as_with_torch(monkeypatch, clips, dtype):
    """Loops take whole lines of 64 bytes of clips; the matrices that move clips may be turned."""
    pytest.importorskip("numba")
    with seeded(0):
        layers = [SelfAttention(24, token_copies(2)).to(dtype) for _ in range(2)]
    whole = stack.stack(layers, torch.device("cpu"))
    latents = [_random(2, clips, 24, seed=s).to(dtype).requires_grad_() for s in range(2)]
    moving = _random(2, clips, clips, seed=2).softmax(-1).to(dtype).requires_grad_()
    images = token_images(2, {(0, 1): moving, (1, 0): moving.mT})
    bits = torch.randint(-(2**15), 2**15, (2, clips, whole.units)).to(torch.int16)
    inputs = [*latents, moving, *whole.parameters()]
    found = []
    for work in (True, False):
        monkeypatch.setattr(attention_core, "loops_work", lambda _, work=work: work)
        out = whole(latents, Batch(None, lambda _: bits), images)
        gradients = torch.autograd.grad(out, inputs, _random(*out.shape, seed=1).to(dtype))
        found.append((out, *gradients))
    limit = 1e-11 if dtype == F64 else 2e-4
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, atol=limit, rtol=limit)


def test_attention_weights_survive_as_if_every_copy_of_a_key_stood_alone():
    """0.9 of a single key's weights, and of two copies 0, 1 or 2 with binomial chances."""
    layer = SelfAttention(16, (2, 0, 1, 3, 1, 0)).double()
    every = torch.arange(-(2**15), 2**15).to(torch.int16)
    bits = every.view(1, -1, 1).expand(1, 65536, layer.units)
    survivors = layer.drop(Batch(None, lambda _: bits)).factors(torch.empty(0, dtype=F64))
    assert survivors.shape == (1, HEADS, 4, 4, 65536)
    for key, copies in enumerate((2, 2, 1, 1)):
        values, counts = survivors[0, 0, 0, key].unique(return_counts=True)
        chances = [DROPOUT, 1 - DROPOUT]
        if copies == 2:
            chances = [DROPOUT**2, 2 * DROPOUT * (1 - DROPOUT), (1 - DROPOUT) ** 2]
        assert (counts / 65536).tolist() == pytest.approx(chances, abs=2e-5)
        scale = copies * (1 - DROPOUT)
        assert values.tolist() == pytest.approx([n / scale for n in range(copies + 1)])


@pytest.mark.parametrize("encoders", [2, 3])
def test_loops_and_torch_drop_the_same_weights(monkeypatch, encoders):
    with seeded(0):
        layer = SelfAttention(16, token_copies(encoders)).double()
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**15), 2**15, (1, 3, layer.units), generator=generator)
    batch = Batch(None, lambda _: bits.to(torch.int16))
    x = _random(encoders**2, 3, 16).requires_grad_()
    found = []
    for work in (True, False):
        monkeypatch.setattr(attention_core, "loops_work", lambda _, work=work: work)
        out = layer(x.unbind(), batch)
        inputs = [x, *layer.parameters()]
        found.append((out, *torch.autograd.grad(out, inputs, _random(*out.shape, seed=1))))
    assert not torch.allclose(found[0][0], layer(x.unbind()))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("branch", ["fcn", "cnn"])
@pytest.mark.parametrize("name", FUSIONS.names())
def test_a_stack_of_fusions_with_filled_up_batches_computes_what_its_members_do(name, branch):
    shape = FusionShape(TWO, 4, branch, 0.3)
    members = []
    for seed in range(2):
        with seeded(seed):
            members.append(build_fusion(name, shape).double())
    whole = stack.stack(members, torch.device("cpu"))
    X = _random(2, 7, 30)
    present = torch.arange(7) < torch.tensor([[7], [5]])
    out = whole(X, Batch(present))
    torch.testing.assert_close(out[0], members[0](X[0]), atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(out[1, :5], members[1](X[1, :5]), atol=1e-9, rtol=1e-7)


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
        gradients.append(mata.branches[0].dense.weight.grad)
    assert not torch.allclose(*gradients)


@pytest.mark.parametrize("coupling", ["companions", "map"])
@pytest.mark.parametrize("name", ["transport", "mata"])
def test_inductive_couplings_see_one_clip_at_a_time(name, coupling):
    fusion = _fusion(name)
    references = fusion.latents(_random(9, 30, seed=5))
    rule = {"companions": Companions, "map": EntropicMap}[coupling](references)
    X = _random(11, 30)
    together = fusion(X, coupling=rule)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(fusion(X[order], coupling=rule), together[order], atol=1e-12, rtol=0)
    alone = torch.cat([fusion(X[i : i + 1], coupling=rule) for i in range(11)])
    torch.testing.assert_close(alone, together, atol=1e-12, rtol=0)


def test_the_batch_coupling_does_depend_on_the_other_clips():
    fusion, X = _fusion("mata"), _random(11, 30)
    alone = torch.cat([fusion(X[i : i + 1]) for i in range(11)])
    assert not torch.allclose(alone, fusion(X), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("shape", [(2, 7, 5), (1, 1, 8), (3, 33, 16)], ids=str)
def test_the_maps_of_a_batch_from_one_loop_are_those_of_its_plans(dtype, shape):
    x, y = (_random(*shape, seed=seed).to(dtype) for seed in (4, 3))
    how = {"eps": 0.05, "iterations": 50, "tolerance": 1e-4}
    assert batch_plans.fits(x, y, **how)
    plans = sinkhorn(normalised_cost(x, y), **how).plan
    torch.testing.assert_close(batch_plans.maps(x, y, **how), plans * shape[1])
    alike = torch.ones(1, 3, 5, dtype=dtype)
    torch.testing.assert_close(batch_plans.maps(alike, alike, **how), alike[..., :3] / 3)
    assert batch_plans.maps(alike * torch.nan, alike, **how).isnan().all()


def test_what_the_one_loop_does_not_fit_goes_the_usual_way(monkeypatch):
    latents = [_random(2, 4, 5, seed=seed) for seed in (4, 3)]
    used = []
    maps = torch.zeros(2, 4, 4, dtype=F64)
    monkeypatch.setattr(batch_plans, "maps", lambda *given: used.append(given) or maps)
    with pytest.raises(SettingsError, match="eps must be"):
        BatchCoupling(TransportSettings(eps=0.0)).move(latents)
    BatchCoupling(TransportSettings(plan_gradient=True)).move(latents)
    monkeypatch.setenv("NVER_SINKHORN", "logarithmic")
    BatchCoupling().move(latents)
    assert not used
    monkeypatch.delenv("NVER_SINKHORN")
    BatchCoupling().move(latents)
    assert len(used) == 1


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
