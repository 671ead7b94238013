"""What a fusion is: branches over the views of one matrix, and a rule that joins them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor, nn

from nver.errors import SettingsError
from nver.fusion.coupling import BatchCoupling, Coupling, Latents, Moved, TransportSettings
from nver.fusion.table import FUSIONS
from nver.heads import HIDDEN, Batch, ConvTrunk, Hidden, Linear
from nver.own_code import from_file

BRANCH_WIDTH = 120
"""Width of every branch (arXiv 2409.14221)."""

STEP = 8
"""Of the width of a branch: attention cuts it into eight heads."""


@dataclass(frozen=True)
class FusionShape:
    """What a fusion is built for.

    Parameters
    ----------
    views : sequence of slice
        The columns of each encoder, at least two encoders; start and stop are given.
    classes : int
        Number of classes.
    branch : {"fcn", "cnn"}
        "fcn": dense 120, ReLU, dropout. "cnn": two convolution blocks (32, 64), flatten, dense 120.
    dropout : float
        Share of units dropped in training, in [0, 1).
    transport : TransportSettings
        How plans are solved.
    width : float
        Of branches and dense layers, times the paper's 120 and 128; above 0.
    """

    views: Sequence[slice]
    classes: int
    branch: str = "fcn"
    dropout: float = 0.3
    transport: TransportSettings = field(default_factory=TransportSettings)
    width: float = 1.0

    @property
    def branch_width(self) -> int:
        """The width of every branch, a multiple of 8."""
        return STEP * max(1, round(self.width * BRANCH_WIDTH / STEP))

    @property
    def hidden(self) -> int:
        """The width of the dense layer before the logits."""
        return max(1, round(self.width * HIDDEN))

    @property
    def dims(self) -> tuple[int, ...]:
        """The widths of the views."""
        return tuple(view.stop - view.start for view in self.views)

    def branches(self) -> nn.ModuleList:
        """Return one branch [clips, dim] -> [clips, branch_width] per encoder."""
        if self.branch not in ("fcn", "cnn"):
            raise SettingsError(f"A branch is 'fcn' or 'cnn', got '{self.branch}'.")
        if self.branch == "fcn":
            return nn.ModuleList(Hidden(dim, self.branch_width, self.dropout) for dim in self.dims)
        return nn.ModuleList(ConvBranch(dim, self.dropout, self.branch_width) for dim in self.dims)


@final
class ConvBranch(nn.Module):
    """Two convolution blocks, dropout, dense 120.

    Parameters
    ----------
    dim : int
        Width of the embedding.
    dropout : float
        Share of the blocks' outputs dropped in training.
    width : int
        Of the dense layer.
    """

    def __init__(self, dim: int, dropout: float, width: int = BRANCH_WIDTH) -> None:
        super().__init__()
        self.trunk = ConvTrunk(dim, (32, 64), dropout)
        self.dense = Linear(self.trunk.width, width)

    def forward(
        self, x: Float[Tensor, "*members clips dim"], batch: Batch | None = None
    ) -> Float[Tensor, "*members clips width"]:
        """Return the branch's latents."""
        latents: Tensor = self.dense(self.trunk(x, batch))
        return latents


class Fusion(nn.Module, ABC):
    """Base of all fusions: logits of X [clips, columns], the views' columns side by side.

    A subclass takes a `FusionShape`, makes its layers, and joins what the branches give. Its layers
    (those of `nver.heads`) and its join take any leading axis: a stack of members is trained at
    once on X [members, clips, columns].

    Parameters
    ----------
    shape : FusionShape
    branches : torch.nn.ModuleList
        One per view, in order.
    """

    couples: ClassVar[bool] = False
    """Whether clips are coupled by transport, so that predictions need a `Coupling`."""

    def __init__(self, shape: FusionShape, branches: nn.ModuleList) -> None:
        super().__init__()
        self.shape = shape
        self.branches = branches

    def latents(
        self, X: Float[Tensor, "*members clips columns"], batch: Batch | None = None
    ) -> Latents:
        """Return what each branch makes of its view."""
        views = zip(self.branches, self.shape.views, strict=True)
        return [branch(X[..., view], batch) for branch, view in views]

    @abstractmethod
    def join(
        self, latents: Latents, moved: Moved, batch: Batch | None
    ) -> Float[Tensor, "*members clips classes"]:
        """Return the logits from the latents and, if the fusion couples, the transported ones."""

    def forward(
        self,
        X: Float[Tensor, "*members clips columns"],
        batch: Batch | None = None,
        coupling: Coupling | None = None,
    ) -> Float[Tensor, "*members clips classes"]:
        """Return the logits; without a `coupling` the clips of X are coupled with each other."""
        latents = self.latents(X, batch)
        if not self.couples:
            return self.join(latents, {}, batch)
        if coupling is None:
            coupling = BatchCoupling(self.shape.transport, None if batch is None else batch.present)
        return self.join(latents, coupling.move(latents), batch)


def fusion_class(name: str) -> type[Fusion]:
    """Return the class of a fusion: a name of the table, or ``FILE.py:CLASS``.

    Raises
    ------
    UnknownNameError
        If no table, or the file, holds the name.
    SettingsError
        If it is no fusion, lacks a member, or its file cannot be run.
    """
    found = from_file(name, SettingsError) if ".py:" in name else FUSIONS.load(name)
    if not (isinstance(found, type) and issubclass(found, Fusion)):
        raise SettingsError(f"'{name}' must be a class derived from nver.fusion.Fusion.")
    if lacking := sorted(getattr(found, "__abstractmethods__", ())):
        raise SettingsError(f"Fusion '{name}' lacks {' and '.join(lacking)}.")
    return found


def build_fusion(name: str, shape: FusionShape) -> Fusion:
    """Return the fusion called `name`, as `fusion_class` finds it.

    Raises
    ------
    UnknownNameError
        If no table holds the name.
    SettingsError
        If there are fewer than two views, or no such branch.
    """
    if len(shape.views) < 2:
        raise SettingsError(
            f"A fusion needs the views of at least two encoders, got {len(shape.views)}. "
            "For one encoder use EmotionClassifier."
        )
    build: Callable[[FusionShape], Fusion] = fusion_class(name)
    return build(shape)
