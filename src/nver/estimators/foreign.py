"""What a fusion that is no part of nver is asked before it is trained.

Networks are trained as a stack, whose parameters and latents have a leading axis of members. A
fusion that counts its axes from the front would be trained to something else than it predicts by,
and nobody would notice; so it is tried on a few random clips.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from nver.errors import SettingsError
from nver.fusion import BatchCoupling, Fusion, FusionShape
from nver.training import seeded
from nver.training.stack import stack

CLIPS, COLUMNS, CLASSES = 5, 24, 3
TOLERANCE = 1e-3
"""Of a logit: plans that are solved together may take a few iterations more."""


@lru_cache(maxsize=64)
def check_fusion(kind: type[Fusion], encoders: int, branch: str) -> None:
    """Refuse a fusion that breaks its contract; what passed once is not asked again.

    Parameters
    ----------
    kind : type
        The class.
    encoders : int
        How many views it is to join.
    branch : {"fcn", "cnn"}
        As of `FusionShape`.

    Raises
    ------
    SettingsError
        If it has a dropout layer of torch, its logits have another shape, a clip's depend on the
        clips beside it, or several members at once are not what each is alone.
    """
    views = [slice(place * COLUMNS, (place + 1) * COLUMNS) for place in range(encoders)]
    shape = FusionShape(views, CLASSES, branch, width=0.1)
    build: Callable[[FusionShape], Fusion] = kind
    with seeded(0):
        members = [build(shape).eval() for _ in range(2)]
        X = torch.randn(CLIPS, encoders * COLUMNS)
    with torch.no_grad():
        said = _objection(members, X)
    if said:
        raise SettingsError(f"Fusion '{kind.__name__}' {said} See docs/add-a-fusion.md.")


def _objection(members: list[Fusion], X: Tensor) -> str:
    """Return what is wrong with a fusion, as the end of a sentence; "" for nothing."""
    if any(isinstance(layer, _DropoutNd) for layer in members[0].modules()):
        return (
            "has a dropout layer of torch, which draws numbers of its own. Take Dropout or Hidden "
            "of nver.heads, and hand it the batch."
        )
    alone = [member(X) for member in members]
    if alone[0].shape != (CLIPS, CLASSES):
        return (
            f"must give logits [clips, classes], {[CLIPS, CLASSES]} here, and gave "
            f"{list(alone[0].shape)}."
        )
    if _differ(_of_first(members[0], X), alone[0][:1]):
        return "gives a clip other logits among other clips: join must treat each by itself."
    try:
        together = stack(members, X.device)(torch.stack([X, X]))
    except (RuntimeError, IndexError, ValueError, SettingsError):
        together = X
    if _differ(together, torch.stack(alone)):
        return (
            "does not do for several members at once, on [members, clips, width], what it does for "
            "each. Count axes from the end (dim=-1), and take layers from nver.heads."
        )
    return ""


def _of_first(network: Fusion, X: Tensor) -> Tensor:
    """Return the logits of the first clip, joined without the others."""
    latents = network.latents(X)
    moved = BatchCoupling(network.shape.transport).move(latents) if network.couples else {}
    first = {pair: values[:1] for pair, values in moved.items()}
    return network.join([values[:1] for values in latents], first, None)


def _differ(one: Tensor, other: Tensor) -> bool:
    return one.shape != other.shape or not torch.allclose(one, other, TOLERANCE, TOLERANCE)
