"""AdamW for a stack of members, each with its own count of steps and learning rate.

Loshchilov & Hutter 2019; one pass over weights, gradients and moments (torch's fused kernel), which
is memory-bound. A member that is not active in a step does not move: not even its moments decay.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw

BETAS = (0.9, 0.999)
EPS = 1e-8


class MemberAdamW:
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
        members = len(parameters[0])
        self.counts = [0] * members
        zeros = [[torch.zeros_like(p) for p in parameters] for _ in range(2)]
        self._set(parameters, zeros[0], zeros[1])

    def _set(
        self, parameters: Sequence[Tensor], first: Sequence[Tensor], second: Sequence[Tensor]
    ) -> None:
        self.parameters = list(parameters)
        self._state = [[p.detach() for p in parameters], list(first), list(second)]
        self._views = [
            [[whole[m] for whole in tensors] for tensors in self._state]
            for m in range(len(self.counts))
        ]
        device = parameters[0].device
        # The kernel takes the count per tensor, and adds 1 to it.
        self._clock = torch.zeros(len(parameters), device=device)
        self._clocks = list(self._clock.unbind())

    def keep(self, members: Sequence[int], parameters: Sequence[Tensor]) -> None:
        """Go on with these members; `parameters` are theirs, in a smaller stack."""
        self.counts = [self.counts[m] for m in members]
        index = torch.tensor(members, device=parameters[0].device)
        _, first, second = ([t.index_select(0, index) for t in kind] for kind in self._state)
        self._set(parameters, first, second)

    @torch.no_grad()
    def step(self, rates: Sequence[float | None]) -> None:
        """Move every member that has a learning rate, and forget the gradients."""
        gradients = [p.grad for p in self.parameters]
        if len(set(zip(rates, self.counts, strict=True))) == 1 and rates[0] is not None:
            self._move(self._state, gradients, rates[0], self.counts[0])
        else:
            for m, rate in enumerate(rates):
                if rate is not None:
                    own = [None if g is None else g[m] for g in gradients]
                    self._move(self._views[m], own, rate, self.counts[m])
        self.counts = [
            count + (rate is not None) for count, rate in zip(self.counts, rates, strict=True)
        ]
        for p in self.parameters:
            p.grad = None

    def _move(
        self,
        state: Sequence[Sequence[Tensor]],
        gradients: Sequence[Tensor | None],
        rate: float,
        count: int,
    ) -> None:
        self._clock.fill_(count)
        used = [i for i, gradient in enumerate(gradients) if gradient is not None]
        parameters, first, second = ([kind[i] for i in used] for kind in state)
        adamw(
            parameters,
            [gradients[i] for i in used],  # type: ignore[misc]
            first,
            second,
            [],
            [self._clocks[i] for i in used],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=rate,
            weight_decay=self.weight_decay,
            eps=EPS,
            maximize=False,
        )
