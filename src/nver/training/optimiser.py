"""AdamW for a stack of members, each with its own count of steps and learning rate.

Loshchilov & Hutter 2019. A member that is not active in a step does not move: not even its moments
decay. On a CPU torch's fused kernel takes one pass over weights, gradients and moments, which is
memory-bound, per member where members differ; wide dense layers hand in their gradient's factors
(`factored`). On other devices all parameters are one matrix
[members, P], and a step is a dozen launches whatever the members' rates and counts are.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from nver.heads.layers import Factors, want_factors
from nver.training.factored import WIDE, Move, loops_work, move_weights

BETAS = (0.9, 0.999)
EPS = 1e-8

Rates = Sequence[float | None]
"""The learning rate of each member in a step; None for one that is passive."""


class MemberAdamW(ABC):
    """AdamW over parameters [members, ...].

    Parameters
    ----------
    parameters : sequence of tensor
        Leaves with a leading axis of members.
    weight_decay : float
        Times the learning rate.
    """

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float) -> None:
        self.weight_decay = weight_decay
        self.counts = [0] * len(parameters[0])
        self._ahead: list[Rates] = []
        self._hold(parameters, None)

    def keep(self, members: Sequence[int], parameters: Sequence[Tensor]) -> None:
        """Go on with these members; `parameters` are theirs, in a smaller stack."""
        self.counts = [self.counts[m] for m in members]
        self._hold(parameters, torch.tensor(members, device=parameters[0].device))

    def plan(self, rates: Sequence[Rates]) -> None:
        """Say the learning rates of the steps to come."""
        self._ahead = list(rates)

    @torch.no_grad()
    def step(self) -> None:
        """Move every member that has a learning rate, and forget the gradients."""
        rates = self._ahead.pop(0)
        self._move(rates)
        self.counts = [
            count + (rate is not None) for count, rate in zip(self.counts, rates, strict=True)
        ]
        for p in self.parameters:
            p.grad = None

    def _alike(self, rates: Rates) -> bool:
        """Return whether all members take the same step."""
        return rates[0] is not None and len(set(zip(rates, self.counts, strict=True))) == 1

    parameters: Sequence[Tensor]

    @abstractmethod
    def _hold(self, parameters: Sequence[Tensor], members: Tensor | None) -> None:
        """Take the parameters; keep the moments of these members, or start them."""

    @abstractmethod
    def _move(self, rates: Rates) -> None:
        """Take a step."""


def optimiser(parameters: Sequence[Tensor], weight_decay: float) -> MemberAdamW:
    """Return the optimiser for the parameters' device."""
    kind = FusedAdamW if parameters[0].device.type == "cpu" else FlatAdamW
    return kind(parameters, weight_decay)


def _move_of(rate: float | None, count: int, weight_decay: float) -> Move:
    """Return what a member's step number `count`, from 1 on, does; without a rate: nothing."""
    if rate is None:
        return Move(1.0, 0.0, 0.0, 1.0, 0.0, EPS)
    root = 1 / math.sqrt(1 - BETAS[1] ** count)
    size = rate / (1 - BETAS[0] ** count)
    return Move(1 - rate * weight_decay, 1 - BETAS[0], 1 - BETAS[1], root, size, EPS)


@final
class FusedAdamW(MemberAdamW):
    """Torch's fused kernel: over the stack where members are alike, else over each."""

    _state: list[list[Tensor]]

    def _hold(self, parameters: Sequence[Tensor], members: Tensor | None) -> None:
        self.parameters = list(parameters)
        if members is None:
            moments = [[torch.zeros_like(p) for p in parameters] for _ in range(2)]
        else:
            moments = [[t.index_select(0, members) for t in kind] for kind in self._state[1:]]
        self._state = [[p.detach() for p in parameters], *moments]
        self._views = [
            [[whole[m] for whole in tensors] for tensors in self._state]
            for m in range(len(self.counts))
        ]
        self._factors = {
            i: want_factors(p)
            for i, p in enumerate(parameters)
            if p.dim() == 3 and p[0].numel() >= WIDE and loops_work(p.dtype)
        }
        self._clock = torch.zeros(())

    def _move(self, rates: Rates) -> None:
        for i, factors in self._factors.items():
            self._move_wide(i, factors, rates)
        gradients = [p.grad for p in self.parameters]
        if self._alike(rates):
            self._call(self._state, gradients, rates[0], self.counts[0])
            return
        for m, rate in enumerate(rates):
            if rate is not None:
                own = [None if g is None else g[m] for g in gradients]
                self._call(self._views[m], own, rate, self.counts[m])

    def _move_wide(self, number: int, factors: Factors, rates: Rates) -> None:
        """Move a parameter whose gradient comes in factors, if it does."""
        for m, (rate, count) in enumerate(zip(rates, self.counts, strict=True)):
            if factors and rate is not None:
                how = _move_of(rate, count + 1, self.weight_decay)
                own = [(g[m], x[m]) for g, x in factors]
                weight, first, second = (kind[number] for kind in self._views[m])
                move_weights(weight, first, second, own, how)
        factors.clear()

    def _call(
        self,
        state: Sequence[Sequence[Tensor]],
        gradients: Sequence[Tensor | None],
        rate: float | None,
        count: int,
    ) -> None:
        """Do what torch.optim.AdamW does with fused=True, without counting per tensor."""
        self._clock.fill_(count + 1)
        used = [i for i, gradient in enumerate(gradients) if gradient is not None]
        if not used:
            return
        parameters, first, second = ([kind[i] for i in used] for kind in state)
        torch._fused_adamw_(
            parameters,
            [gradients[i] for i in used],  # type: ignore[misc]
            first,
            second,
            [],
            [self._clock] * len(used),
            amsgrad=False,
            lr=rate,  # type: ignore[arg-type]
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=self.weight_decay,
            eps=EPS,
            maximize=False,
        )


@final
class FlatAdamW(MemberAdamW):
    """All parameters as one matrix, and what differs between members as columns of factors.

    The factors of all planned steps go to the device at once: nothing in a step waits for it. A
    parameter without a gradient is taken to have one of 0.
    """

    def plan(self, rates: Sequence[Rates]) -> None:
        """Say the learning rates of the steps to come."""
        super().plan(rates)
        counts, rows = list(self.counts), []
        for step in rates:
            counts = [n + (rate is not None) for n, rate in zip(counts, step, strict=True)]
            pairs = zip(step, counts, strict=True)
            rows.append([_move_of(rate, count, self.weight_decay)[:-1] for rate, count in pairs])
        table = torch.tensor(rows, dtype=self._weights.dtype).transpose(1, 2).unsqueeze(-1)
        self._table = list(table.contiguous().to(self._weights.device))

    def _hold(self, parameters: Sequence[Tensor], members: Tensor | None) -> None:
        self.parameters = list(parameters)
        with torch.no_grad():
            self._weights = torch.cat([p.flatten(1) for p in parameters], dim=1)
            sizes = [p[0].numel() for p in parameters]
            parts = self._weights.split(sizes, dim=1)  # type: ignore[no-untyped-call]
            for p, part in zip(parameters, parts, strict=True):
                p.data = part.view(p.shape)
            if members is None:
                self._moments = [torch.zeros_like(self._weights) for _ in range(2)]
            else:
                self._moments = [moment.index_select(0, members) for moment in self._moments]

    def _move(self, rates: Rates) -> None:  # noqa: ARG002 - they are in the table
        shrink, by_first, by_second, root, size = self._table.pop(0)
        first, second = self._moments
        gradient = torch.cat(
            [
                (torch.zeros_like(p) if p.grad is None else p.grad).flatten(1)
                for p in self.parameters
            ],
            dim=1,
        )
        first.lerp_(gradient, by_first)
        second.lerp_(gradient.square_(), by_second)
        step = torch.sqrt(second, out=gradient).mul_(root).add_(EPS)
        torch.div(first, step, out=step)
        self._weights.mul_(shrink).addcmul_(step, size, value=-1)
