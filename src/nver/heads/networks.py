"""Heads over one embedding: FCN and CNN, as the paper uses them (arXiv 2409.14221).

A head maps embeddings [clips, dim] to logits [clips, classes]; a stack of M heads maps [members,
clips, dim] to [members, clips, classes]. The CNN reads an embedding as a one-channel sequence along
its dimensions. That order carries no meaning, so a CNN can hardly beat a dense head here; it is the
paper's choice and costs about twenty times more.
"""

from __future__ import annotations

from typing import final

from jaxtyping import Bool, Float
from torch import Tensor, nn

from nver.errors import SettingsError
from nver.heads.convolution import KERNEL, ConvPool
from nver.heads.layers import Batch, Hidden, Linear
from nver.heads.standardise import Standardise
from nver.heads.trunk import loops_work, two_blocks

HIDDEN = 128
"""Width of the dense layer before the logits (arXiv 2409.14221)."""

SHORTEST = 10
"""Two blocks need ten positions; narrower embeddings are padded with zeros."""


@final
class ConvTrunk(nn.Module):
    """Two convolution blocks over an embedding read as a sequence; standardisation and dropout.

    Without the standardisation nothing is learned behind attention: after ReLU and pooling all
    features are positive, a dense layer over thousands of them gives every clip nearly the same
    vector, and neither a LayerNorm nor a transport cost tells the clips apart (docs/recipe.md).

    Parameters
    ----------
    dim : int
        Width of the embedding; below 10 it is padded with zeros.
    filters : (int, int)
        Of the two blocks: (64, 128) for the paper's CNN head, (32, 64) for MATA's branches.
    share : float
        Share of the outputs dropped in training.

    Attributes
    ----------
    width : int
        Values per clip that come out.
    """

    def __init__(self, dim: int, filters: tuple[int, int], share: float = 0.0) -> None:
        super().__init__()
        self.padding = max(SHORTEST - dim, 0)
        self.blocks = nn.Sequential(ConvPool(1, filters[0]), ConvPool(*filters))
        length = dim + self.padding
        for _ in filters:
            length = (length - KERNEL + 1) // 2
        self.width = length * filters[1]
        self.standardise = Standardise(self.width, share)

    def forward(
        self, x: Float[Tensor, "*members clips dim"], batch: Batch | None = None
    ) -> Float[Tensor, "*members clips width"]:
        """Return the flattened, standardised activations, dropped ones set to 0."""
        padded = nn.functional.pad(x, (0, self.padding)) if self.padding else x
        maps = self.maps(padded, self.standardise.balanced(x, batch))
        standardised: Tensor = self.standardise(maps.flatten(-2), batch)
        return standardised

    def maps(
        self,
        x: Float[Tensor, "*members clips dim"],
        balanced: Bool[Tensor, "*members clips"] | None = None,
    ) -> Float[Tensor, "*members clips pooled filters"]:
        """Return what the blocks make of x; `balanced`: see `ConvPool.forward`."""
        if x.device.type != "cpu" or x.requires_grad or not loops_work(x.dtype):
            first, second = self.blocks
            maps: Tensor = second(first(x.unsqueeze(-1)), balanced)
            return maps
        given = [x, *self.blocks.parameters()]  # weight and bias of the first, then of the second
        if x.dim() == 3:
            return two_blocks(*given, balanced=balanced)
        whole = (part.unsqueeze(0) for part in given)
        clips = None if balanced is None else balanced.unsqueeze(0)
        return two_blocks(*whole, balanced=clips).squeeze(0)


@final
class Classifier(nn.Module):
    """The last layers of all networks: dense 128, ReLU, dropout, dense to the classes.

    Parameters
    ----------
    width, classes : int
        Values in, logits out.
    dropout : float
        Share of hidden units dropped in training, in [0, 1).
    hidden : int
        Width of the dense layer between.
    """

    def __init__(self, width: int, classes: int, dropout: float, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.hidden = Hidden(width, hidden, dropout)
        self.out = Linear(hidden, classes)

    def forward(
        self, x: Float[Tensor, "*members clips width"], batch: Batch | None = None
    ) -> Float[Tensor, "*members clips classes"]:
        """Return the logits."""
        logits: Tensor = self.out(self.hidden(x, batch))
        return logits


@final
class FCN(nn.Module):
    """Dense 128, ReLU, dropout, dense to the classes.

    Parameters
    ----------
    dim, classes : int
        Width of the embedding and number of classes.
    dropout : float
        Share of hidden units dropped in training, in [0, 1).
    hidden : int
        Width of the dense layer.
    """

    def __init__(self, dim: int, classes: int, dropout: float = 0.3, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.layers = Classifier(dim, classes, dropout, hidden)

    def forward(
        self, x: Float[Tensor, "*members clips dim"], batch: Batch | None = None
    ) -> Float[Tensor, "*members clips classes"]:
        """Return the logits."""
        logits: Tensor = self.layers(x, batch)
        return logits


@final
class CNN(nn.Module):
    """Two convolution blocks (64 and 128 filters), dropout, then the layers of `FCN`.

    Parameters
    ----------
    dim, classes : int
        Width of the embedding and number of classes.
    dropout : float
        Share of the blocks' outputs and of hidden units dropped in training, in [0, 1).
    hidden : int
        Width of the dense layer.
    """

    def __init__(self, dim: int, classes: int, dropout: float = 0.3, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.trunk = ConvTrunk(dim, (64, 128), dropout)
        self.layers = Classifier(self.trunk.width, classes, dropout, hidden)

    def forward(
        self, x: Float[Tensor, "*members clips dim"], batch: Batch | None = None
    ) -> Float[Tensor, "*members clips classes"]:
        """Return the logits."""
        logits: Tensor = self.layers(self.trunk(x, batch), batch)
        return logits


def build_head(
    kind: str, dim: int, classes: int, dropout: float, hidden: int = HIDDEN
) -> FCN | CNN:
    """Return a head by its name.

    Raises
    ------
    SettingsError
        If there is no such head.
    """
    if kind == "fcn":
        return FCN(dim, classes, dropout, hidden)
    if kind == "cnn":
        return CNN(dim, classes, dropout, hidden)
    raise SettingsError(f"A head is 'fcn' or 'cnn', got '{kind}'.")
