"""The clips of several members, and the batches that they all take side by side.

On a GPU every batch is filled up to one width, the largest that its recipe can give: kernels choose
the order of their sums by the sizes that they get, which must not depend on the members beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Table:
    """Which clips every member takes in every step; fewer clips or steps are filled up.

    Parameters
    ----------
    rows, labels : int [steps, members, clips]
        Rows of the inputs and class numbers.
    present : bool [steps, members, clips]
        What is no filling.
    weights : float [steps, members, clips]
        One over the number of clips in the member's batch; 0 for filling.
    sizes : float [steps, members]
        Clips per step and member.
    counts : tuple of tuple of int
        The same, known without asking the device.
    filled : bool
        Whether every step has the width of the table; else that of its largest batch.
    """

    rows: Int[Tensor, "steps members clips"]
    labels: Int[Tensor, "steps members clips"]
    present: Bool[Tensor, "steps members clips"]
    weights: Float[Tensor, "steps members clips"]
    sizes: Float[Tensor, "steps members"]
    counts: tuple[tuple[int, ...], ...]
    filled: bool

    def width(self, step: int) -> int:
        """Return the rows per member of a step."""
        return self.rows.shape[2] if self.filled else max(self.counts[step])

    def absent(self, step: int) -> Bool[Tensor, "members clips"] | None:
        """Return which rows of a step are clips; None, if not `filled`, where all are."""
        width = self.width(step)
        all_are = min(self.counts[step]) == width and not self.filled
        return None if all_are else self.present[step, :, :width]

    def to(self, device: torch.device) -> Table:
        """Return the table on a device."""
        tensors = (self.rows, self.labels, self.present, self.weights, self.sizes)
        rows, labels, present, weights, sizes = (t.to(device, non_blocking=True) for t in tensors)
        return Table(rows, labels, present, weights, sizes, self.counts, self.filled)


class Clips:
    """The inputs of all members as one matrix; inputs that members share are held once.

    Parameters
    ----------
    inputs : sequence of float [clips, columns]
        One per member.
    labels : sequence of int [clips]
        One per member.
    """

    def __init__(
        self,
        inputs: Sequence[Float[Tensor, "_ columns"]],
        labels: Sequence[Int[Tensor, " _"]],
        device: torch.device,
    ) -> None:
        starts: dict[int, int] = {}
        held: list[Tensor] = []
        end = 0
        self._starts = []
        for X in inputs:
            if id(X) not in starts:
                starts[id(X)] = end
                held.append(X)
                end += len(X)
            self._starts.append(starts[id(X)])
        self.X = _side_by_side(held, device)
        self._labels = list(labels)
        self._buffer = self.X.new_empty(0)

    @property
    def columns(self) -> int:
        """Width of the inputs."""
        return self.X.shape[1]

    def keep(self, members: Sequence[int]) -> None:
        """Go on with these members only."""
        self._starts = [self._starts[m] for m in members]
        self._labels = [self._labels[m] for m in members]

    def table(self, batches: Sequence[Sequence[Int[Tensor, " _"]]], largest: int) -> Table:
        """Return the table of every member's batches of its own clips, each at most `largest`."""
        steps = max(len(own) for own in batches)
        filled = _fills_up(self.X.device)
        width = max((len(part) for own in batches for part in own), default=0)
        width = largest if filled else width
        shape = (steps, len(batches), width)
        # In numpy: these are many small pieces, and torch takes ten times as long for each.
        rows, labels = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        counts = np.zeros(shape[:2], np.int64)
        for m, own in enumerate(batches):
            rows[:, m], known = self._starts[m], self._labels[m].numpy()
            for step, part in enumerate(own):
                taken = part.numpy()
                rows[step, m, : len(taken)] += taken
                labels[step, m, : len(taken)] = known[taken]
                counts[step, m] = len(taken)
        present = np.arange(width) < counts[:, :, None]
        arrays = {
            "rows": rows,
            "labels": labels,
            "present": present,
            "weights": (present / np.maximum(counts, 1)[:, :, None]).astype(np.float32),
            "sizes": counts.astype(np.float32),
        }
        made = {name: torch.from_numpy(array) for name, array in arrays.items()}
        whole = Table(**made, counts=tuple(map(tuple, counts.tolist())), filled=filled)
        return whole.to(self.X.device)

    def gather(self, table: Table, step: int) -> Float[Tensor, "members clips columns"]:
        """Return the inputs of a step; they hold until the next call."""
        rows = table.rows[step, :, : table.width(step)]
        if self._buffer.shape[:2] != rows.shape:
            self._buffer = self.X.new_empty(*rows.shape, self.columns)
        flat = self._buffer.view(-1, self.columns)
        torch.index_select(self.X, 0, rows.reshape(-1), out=flat)
        return self._buffer


def _fills_up(device: torch.device) -> bool:
    """Return whether batches are filled up to one width: a CPU's loops go over what is there."""
    return device.type != "cpu"


def _side_by_side(parts: Sequence[Float[Tensor, "_ columns"]], device: torch.device) -> Tensor:
    """Return the rows of all on the device; there is no second copy where they come from."""
    if len(parts) == 1:
        return parts[0].to(device)
    rows = [len(part) for part in parts]
    whole = parts[0].new_empty(sum(rows), parts[0].shape[1], device=device)
    for place, part in zip(whole.split(rows), parts, strict=True):  # type: ignore[no-untyped-call]
        place.copy_(part)
    return whole
