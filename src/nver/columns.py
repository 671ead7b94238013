"""Which columns of X a training sees: those of its encoders, or of one layer of each.

The view of an encoder that gives all its layers holds them one after the other, equally wide
(`nver.dataset.EmbeddingDataset.layers`). Where layers are searched, a training gets one of them in
place of all, or, if it is to choose by itself, each as a view of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Cut:
    """Some columns of an X.

    Parameters
    ----------
    parts : tuple of slice
        The columns, in order.
    views : mapping of str to slice
        The views of an X that holds these columns only.
    """

    parts: tuple[slice, ...]
    views: Mapping[str, slice]

    def of(self, X: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return these columns [rows, columns] of an X [clips, dim], copied."""
        return np.concatenate([np.asarray(X[:, part][rows]) for part in self.parts], axis=1)


def cut(
    views: Mapping[str, slice],
    encoders: Sequence[str],
    held: Mapping[str, int],
    chosen: Mapping[str, int],
) -> Cut:
    """Return the columns of some encoders.

    Parameters
    ----------
    views : mapping of str to slice
        Encoder to its columns in the whole X.
    encoders : sequence of str
        Whose columns, in this order.
    held : mapping of str to int
        Encoder to how many layers its view holds; those that are absent are taken whole.
    chosen : mapping of str to int
        Encoder to the layer that stands for it, from 0. One of `held` that is absent here gives a
        view for each of its layers.

    Examples
    --------
    >>> cut({"a": slice(0, 6), "b": slice(6, 8)}, ["b", "a"], {"a": 3}, {"a": 1}).parts
    (slice(6, 8, None), slice(2, 4, None))
    >>> list(cut({"a": slice(0, 6)}, ["a"], {"a": 3}, {}).views)
    ['a, layer 0', 'a, layer 1', 'a, layer 2']
    """
    named: dict[str, slice] = {}
    for name in encoders:
        layers = _layers(views[name], held.get(name, 1))
        if name not in held:
            named[name] = views[name]
        elif name in chosen:
            named[name] = layers[chosen[name]]
        else:
            named |= {f"{name}, layer {index}": part for index, part in enumerate(layers)}
    ends = np.cumsum([0, *(part.stop - part.start for part in named.values())]).tolist()
    own = {name: slice(ends[i], ends[i + 1]) for i, name in enumerate(named)}
    return Cut(tuple(named.values()), own)


def _layers(view: slice, count: int) -> list[slice]:
    width = (view.stop - view.start) // count
    return [slice(view.start + i * width, view.start + (i + 1) * width) for i in range(count)]
