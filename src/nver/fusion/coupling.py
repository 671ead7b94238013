"""How clips are coupled by optimal transport: in their batch, with companions, or by a fixed map.

MATA transports the rows of a mini-batch onto each other: with x_a, x_b [clips, width] of two
encoders,

    M_ij = ||x_a,i - x_b,j||_2 / max M,   P = Sinkhorn(M),   x_{b->a} = B P x_b,   x_{a->b} = B P^T
    x_a.

In training that is what happens (`BatchCoupling`). If it also happens at evaluation, as in the
paper, the prediction for a clip depends on the other test clips of its batch: the rule is
transductive. The other two couplings here are inductive: they hold a fixed set of training clips,
and what they give for a clip is a function of this clip and the model alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nver.fusion import batch_plans
from nver.heads.products import product
from nver.transport import TransportPlan, cost_scale, normalised_cost, pairwise_cost, sinkhorn

Latents = Sequence[Float[Tensor, "*members clips width"]]
Moved = Mapping[tuple[int, int], Float[Tensor, "*members clips width"]]


@final
class Mapped(Mapping[tuple[int, int], Tensor]):
    """What one matrix moves for a whole batch: computed where it is asked for.

    Parameters
    ----------
    latents : sequence of float [*members, clips, width]
    maps : mapping of (int, int) to float [*members, clips, clips]
        T with x_{j->i} = T x_j, under (i, j).
    """

    def __init__(self, latents: Latents, maps: Mapping[tuple[int, int], Tensor]) -> None:
        self.latents = latents
        self.maps = maps

    def __getitem__(self, pair: tuple[int, int]) -> Tensor:
        return product(self.maps[pair], self.latents[pair[1]])

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)


CLIPS_AT_ONCE = 256
"""Clips whose companion problems are solved together: bounds memory, changes no result."""


@dataclass(frozen=True)
class TransportSettings:
    """How plans are solved.

    Parameters
    ----------
    eps : float
        Regularisation relative to the largest cost.
    iterations : int
        Limit on Sinkhorn's iterations.
    tolerance : float
        Marginal error at which a plan stops early.
    plan_gradient : bool
        Whether training also follows the plan's own gradient.
    """

    eps: float = 0.05
    iterations: int = 50
    tolerance: float = 1e-4
    plan_gradient: bool = False

    def solve(
        self, cost: Float[Tensor, "*batch n m"], weights: Float[Tensor, "*batch n"] | None = None
    ) -> TransportPlan:
        """Return the plans; rows and columns of the same `weights` [..., n], without any equal."""
        return sinkhorn(
            cost,
            eps=self.eps,
            source=weights,
            target=weights,
            iterations=self.iterations,
            tolerance=self.tolerance,
            plan_gradient=self.plan_gradient,
        )


class Coupling(ABC):
    """Moves each encoder's latents into the place of each other encoder's."""

    @abstractmethod
    def move(self, latents: Latents) -> Moved:
        """Return x_{j->i} under the key (i, j) for every ordered pair of encoders i != j."""


@final
@dataclass(frozen=True)
class BatchCoupling(Coupling):
    """The rows of the batch are coupled with each other; a batch of one clip maps to itself.

    Parameters
    ----------
    settings : TransportSettings
    present : bool [members, clips], optional
        Rows that are clips; the others take no part. None: all.
    """

    settings: TransportSettings = TransportSettings()
    present: Bool[Tensor, "members clips"] | None = None

    def move(self, latents: Latents) -> Moved:
        """Return the barycentric maps between all pairs of encoders."""
        maps = {}
        for i, j in combinations(range(len(latents)), 2):
            if self.present is None:  # then all weights are alike
                maps[i, j] = self._map(latents[i], latents[j])
                maps[j, i] = maps[i, j].mT
                continue
            plan = self._solve(latents[i], latents[j])
            maps[i, j] = plan.plan / _divisors(plan.source).unsqueeze(-1)
            maps[j, i] = plan.plan.mT / _divisors(plan.target).unsqueeze(-1)
        return Mapped(latents, maps)

    def _map(self, x: Tensor, y: Tensor) -> Tensor:
        """Return n times the plan between n clips of equal weight."""
        how = self.settings
        numbers = how.eps, how.iterations, how.tolerance
        if not how.plan_gradient and batch_plans.fits(x, y, *numbers):
            return batch_plans.maps(x, y, *numbers)
        plan = self._solve(x, y).plan
        return plan * plan.shape[-1]

    def _solve(self, x: Tensor, y: Tensor) -> TransportPlan:
        if not self.settings.plan_gradient:
            x, y = x.detach(), y.detach()
        if self.present is None:
            return self.settings.solve(normalised_cost(x, y))
        # A member without any clip has nothing to couple, but its problem must have weights.
        rows = self.present | ~self.present.any(dim=-1, keepdim=True)
        cost = pairwise_cost(x, y) * (rows.unsqueeze(-1) & rows.unsqueeze(-2))
        return self.settings.solve(cost / cost_scale(cost), rows.to(cost.dtype))


def _divisors(weights: Tensor) -> Tensor:
    """Return the weights, with infinity for 0: rows of weight 0 give zeros."""
    return weights.masked_fill(weights == 0, torch.inf)


@final
@dataclass(frozen=True)
class Companions(Coupling):
    """Each clip is coupled alone with the same training clips: one small problem per clip.

    Parameters
    ----------
    references : sequence of [companions, width], one per encoder
        Latents of the companions, row by row the same clips.
    """

    references: Latents
    settings: TransportSettings = TransportSettings()

    def move(self, latents: Latents) -> Moved:
        """Return what happens to each clip among its companions."""
        parts = [
            self._move_some([x[start : start + CLIPS_AT_ONCE] for x in latents])
            for start in range(0, len(latents[0]), CLIPS_AT_ONCE)
        ]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def _move_some(self, latents: Latents) -> Moved:
        """Solve one problem per clip, the clip in its first row and column, and read these two."""
        moved = {}
        for i, j in combinations(range(len(latents)), 2):
            (x, y), (held_x, held_y) = ((part[i], part[j]) for part in (latents, self.references))
            cost = self._cost(x, y, pairwise_cost(held_x, held_y), held_x, held_y)
            found = self.settings.solve(cost / cost_scale(cost))
            row, column = found.plan[:, 0], found.plan[:, :, 0]
            to_x = row[:, :1] * y + row[:, 1:] @ held_y
            to_y = column[:, :1] * x + column[:, 1:] @ held_x
            moved[i, j] = to_x / found.source[:, :1]
            moved[j, i] = to_y / found.target[:, :1]
        return moved

    @staticmethod
    def _cost(x: Tensor, y: Tensor, held: Tensor, held_x: Tensor, held_y: Tensor) -> Tensor:
        """Return the costs [clips, 1 + companions, 1 + companions]; `held` are those of all."""
        own = pairwise_cost(x.unsqueeze(1), y.unsqueeze(1))
        row = torch.cat([own, pairwise_cost(x, held_y).unsqueeze(1)], dim=2)
        column = pairwise_cost(y, held_x).unsqueeze(2)
        rest = torch.cat([column, held.expand(len(x), -1, -1)], dim=2)
        return torch.cat([row, rest], dim=1)


@final
class EntropicMap(Coupling):
    """A plan is solved once between training clips; new clips follow its entropic map.

    x_{b->a} = sum_k softmax_k((g_k - M(x_a, r_b,k)) / eps) r_b,k with the potential g and the cost
    scale of the references r (Seguy et al. 2018; Pooladian & Niles-Weed 2021).

    Parameters
    ----------
    references : sequence of [clips, width], one per encoder
        Latents of the reference clips, row by row the same clips.
    """

    def __init__(
        self, references: Latents, settings: TransportSettings = TransportSettings()
    ) -> None:
        self.references = references
        self.scales: dict[tuple[int, int], Tensor] = {}
        self.plans: dict[tuple[int, int], TransportPlan] = {}
        for i, j in combinations(range(len(references)), 2):
            cost = pairwise_cost(references[i], references[j])
            scale = cost_scale(cost)
            plan = settings.solve(cost / scale)
            self.scales[i, j] = self.scales[j, i] = scale
            self.plans[i, j], self.plans[j, i] = plan, plan.transpose

    def move(self, latents: Latents) -> Moved:
        """Return the image of each clip under the maps."""
        moved = {}
        for (i, j), plan in self.plans.items():
            held = self.references[j]
            cost = pairwise_cost(latents[i], held) / self.scales[i, j]
            moved[i, j] = plan.extend(cost, held)
        return moved
