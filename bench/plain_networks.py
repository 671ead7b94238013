"""The same networks as a researcher writes them: torch's own layers, POT's solver.

Used by `bench.training`; the architecture is that of `nver.fusion`, standardised branches included.
"""

from __future__ import annotations

from collections.abc import Sequence

import ot
import torch
from torch import nn

WIDTH = 120


def branch_of(kind: str, dim: int, dropout: float) -> nn.Sequential:
    """Return a branch [clips, dim] -> [clips, 120]."""
    if kind == "fcn":
        return nn.Sequential(nn.Linear(dim, WIDTH), nn.ReLU(), nn.Dropout(dropout))
    width = 64 * (((dim - 2) // 2 - 2) // 2)
    return nn.Sequential(
        nn.Unflatten(1, (1, dim)),
        *(nn.Conv1d(1, 32, 3), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(32, 64, 3), nn.ReLU(), nn.MaxPool1d(2)),
        nn.Flatten(),
        nn.BatchNorm1d(width, affine=False),
        nn.Dropout(dropout),
        nn.Linear(width, WIDTH),
    )


class Plain(nn.Module):
    """Branches over the views."""

    def __init__(self, views: Sequence[slice], branch: str, dropout: float) -> None:
        super().__init__()
        self.views = views
        self.branches = nn.ModuleList(
            branch_of(branch, view.stop - view.start, dropout) for view in views
        )

    def latents(self, X: torch.Tensor) -> list[torch.Tensor]:
        """Return what each branch makes of its view."""
        pairs = zip(self.branches, self.views, strict=True)
        return [branch(X[:, view]) for branch, view in pairs]


def last_layers(width: int, classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, 128), nn.ReLU(), nn.Dropout(dropout), nn.Linear(128, classes)
    )


class PlainConcat(Plain):
    """Concatenation."""

    def __init__(self, views, classes, branch="fcn", dropout=0.3) -> None:
        super().__init__(views, branch, dropout)
        self.classifier = last_layers(WIDTH * len(views), classes, dropout)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.classifier(torch.cat(self.latents(X), dim=1))


class PlainMata(Plain):
    """MATA with `ot.sinkhorn`; the gradient passes through its iterations unless `detached`."""

    def __init__(
        self, views, classes, iterations=50, branch="fcn", dropout=0.3, detached=False
    ) -> None:
        super().__init__(views, branch, dropout)
        self.iterations = iterations
        self.detached = detached
        self.attention = nn.MultiheadAttention(WIDTH, 8, dropout=0.1, batch_first=True)
        self.norm = nn.LayerNorm(WIDTH)
        self.classifier = last_layers(6 * WIDTH, classes, dropout)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        a, b = self.latents(X)
        clips = len(X)
        cost = torch.cdist(a, b)
        if self.detached:
            cost = cost.detach()
        weights = torch.full((clips,), 1 / clips, device=X.device)
        plan = ot.sinkhorn(
            weights, weights, cost / cost.max(), 0.05, numItermax=self.iterations, warn=False
        )
        to_a, to_b = clips * plan @ b, clips * plan.T @ a
        tokens = torch.stack([to_a, a, b, to_b, b, a], dim=1)
        attended, _ = self.attention(tokens, tokens, tokens)
        return self.classifier(self.norm(tokens + attended).flatten(1))
