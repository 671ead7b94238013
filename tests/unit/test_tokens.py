"""Tokens that repeat: what is computed once is what all of them would give, training included."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nver.fusion import BatchCoupling, FusionShape, build_fusion
from nver.fusion.tokens import copy_counts, distinct_tokens, read_once, token_copies
from nver.heads import Linear
from nver.training import seeded

F64 = torch.float64
VIEWS = (slice(0, 6), slice(6, 16), slice(16, 23))


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("encoders", [2, 3, 5])
def test_a_layer_over_copies_reads_each_distinct_token_once(encoders):
    copies = token_copies(encoders)
    counts = torch.tensor(copy_counts(copies), dtype=F64)
    assert counts.tolist() == [2 * (encoders - 1)] * encoders + [1] * encoders * (encoders - 1)
    with seeded(0):
        dense = Linear(3 * len(copies), 4).double()
    drawn = dense.weight.detach().unflatten(1, (len(copies), 3))
    read_once(dense, copies)
    assert dense.in_features == dense.weight.shape[1] == 3 * encoders**2
    of = torch.tensor(copies)
    means = torch.stack([drawn[:, of == kind].mean(1) for kind in range(encoders**2)], dim=1)
    x = _random(encoders**2, 6, 3)
    expected = torch.cat(list(x[of]), dim=1) @ means[:, of].flatten(1).T + dense.bias
    counted = torch.cat(list(x * counts[:, None, None]), dim=1)
    torch.testing.assert_close(dense(counted), expected)


class _EveryToken(nn.Module):
    """The network as the paper draws it: all tokens, copies included, in torch's own layers."""

    def __init__(self, fusion):
        super().__init__()
        self.copies = list(token_copies(len(fusion.branches)))
        self.fusion = copy.deepcopy(fusion)
        dense = self.fusion.classifier.hidden.dense
        parts = dense.weight.detach().unflatten(1, (max(self.copies) + 1, -1))
        dense.weight = nn.Parameter(parts[:, self.copies].flatten(1))
        self.attention = None
        if hasattr(fusion, "attention"):
            inside = self.fusion.attention
            self.attention = nn.MultiheadAttention(120, 8, batch_first=True, dtype=F64)
            self.attention.in_proj_weight, self.attention.in_proj_bias = inside.inner.parameters()
            self.attention.out_proj.weight, self.attention.out_proj.bias = inside.outer.parameters()

    def forward(self, X):
        """Return the logits."""
        latents = self.fusion.latents(X)
        moved = BatchCoupling(self.fusion.shape.transport).move(latents)
        tokens = torch.stack(distinct_tokens(latents, moved), dim=1)[:, self.copies]
        if self.attention is not None:
            attended = self.attention(tokens, tokens, tokens, need_weights=False)[0]
            tokens = self.fusion.attention.norm(tokens + attended)
        return self.fusion.classifier(tokens.flatten(1))


@pytest.mark.parametrize("encoders", [2, 3])
@pytest.mark.parametrize("name", ["mata", "transport"])
def test_training_over_distinct_tokens_is_training_over_all(name, encoders):
    views = VIEWS[:encoders]
    with seeded(0):
        mine = build_fusion(name, FusionShape(views, 3, dropout=0.0)).double()
    theirs = _EveryToken(mine)
    X, y = _random(24, views[-1].stop), torch.arange(24) % 3
    torch.testing.assert_close(mine(X), theirs(X), atol=1e-11, rtol=1e-9)
    start = mine(X).detach()
    for network in (mine, theirs):
        # With Adam's usual eps of 1e-8 the two differ by what it weighs beside small gradients.
        adam = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1.0, eps=1e-14)
        for _ in range(15):
            adam.zero_grad()
            cross_entropy(network(X), y).backward()
            adam.step()
    assert float((mine(X) - start).detach().abs().max()) > 0.3
    torch.testing.assert_close(mine(X), theirs(X), atol=1e-6, rtol=1e-6)
