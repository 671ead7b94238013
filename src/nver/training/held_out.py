"""The clips that early stopping looks at: whole speakers if they are known, else of every class."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


def validation_split(
    y: Int[Tensor, " clips"],
    groups: Int[Tensor, " clips"] | None,
    share: float,
    generator: torch.Generator,
) -> tuple[Int[Tensor, " kept"], Int[Tensor, " held"]] | None:
    """Return the clips to train on and those to hold out, or None if there is no sound way.

    With groups (speakers), whole groups are held out until they make up the share; at most half of
    the clips, and every class keeps a clip to train on. Without, each class gives its share.
    """
    held = (
        _hold_out_classes(y, share, generator)
        if groups is None
        else _hold_out_groups(y, groups, share, generator)
    )
    kept = ~held
    classes = len(_distinct(y))
    if not bool(held.any()) or len(_distinct(y[kept])) < classes or int(held.sum()) * 2 > len(y):
        return None
    return kept.nonzero().squeeze(1), held.nonzero().squeeze(1)


def _distinct(values: Tensor) -> Tensor:
    found: Tensor = torch.unique(values)
    return found


def _hold_out_groups(y: Tensor, groups: Tensor, share: float, generator: torch.Generator) -> Tensor:
    names = _distinct(groups)
    held = torch.zeros(len(y), dtype=torch.bool)
    for index in torch.randperm(len(names), generator=generator):
        if int(held.sum()) >= share * len(y):
            break
        held |= groups == names[index]
    return held


def _hold_out_classes(y: Tensor, share: float, generator: torch.Generator) -> Tensor:
    held = torch.zeros(len(y), dtype=torch.bool)
    for label in _distinct(y):
        members = (y == label).nonzero().squeeze(1)
        count = round(share * len(members))
        held[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return held
