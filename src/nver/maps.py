"""Where each clip lies on the map of each encoder; a map that was made before is not made again.

On a thousand clips a map takes as long as many trainings. Where there are several to make, they are
made side by side, as trainings are; on few clips the processes would take longer to start.
"""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nver import provenance
from nver.jobs import Data
from nver.processes import execute
from nver.progress import Progress
from nver.trainings import Digest, SavedTrainings

if TYPE_CHECKING:
    import pandas as pd

    from nver.dataset import EmbeddingDataset

WORTH_PROCESSES = 1000
"""Clips from which a process of its own pays for a map."""


def maps(
    dataset: EmbeddingDataset,
    saved: Path | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return the t-SNE map of every encoder.

    Parameters
    ----------
    dataset : EmbeddingDataset
        The clips.
    saved : Path or None
        Folder in which maps are looked up and saved.
    jobs : int or None
        Number of processes; None means one per core.
    progress : callable or None
        Called as ``progress("t-SNE maps", done, encoders)``.

    Returns
    -------
    DataFrame
        file, encoder, x, y, label, speaker: one row per clip on a map, encoder by encoder.
    """
    import pandas as pd

    names = list(dataset.views)
    store = None if saved is None else SavedTrainings(saved)
    found = {name: one for name in names if (one := _lookup(store, dataset, name)) is not None}
    missing = [name for name in names if name not in found]
    if progress is not None:
        progress("t-SNE maps", len(found), len(names))
    for name, indices, coordinates in _made(dataset, missing, jobs):
        found[name] = indices, coordinates
        if store is not None:
            arrays = {"indices": indices, "coordinates": coordinates}
            store.put(_key(dataset, name), arrays, {"map": name})
        if progress is not None:
            progress("t-SNE maps", len(found), len(names))
    return pd.concat([_rows(dataset, name, *found[name]) for name in names], ignore_index=True)


def _made(dataset: EmbeddingDataset, names: list[str], jobs: int | None) -> Any:
    """Yield name, indices and coordinates as they come."""
    from joblib import cpu_count

    processes = min(len(names), jobs or int(cpu_count()))
    if len(dataset) < WORTH_PROCESSES or processes < 2:
        processes = 1
    data = Data(dataset.X, dataset.y, None, dict(dataset.views), dataset.labels)
    with closing(execute(_make, names, processes, data, None)) as results:
        yield from results


def _make(name: str, data: Data, _: Any) -> tuple[str, np.ndarray, np.ndarray]:
    from nver.report.projection import project

    chart = project(np.ascontiguousarray(data.X[:, data.views[name]]), data.y.tolist())
    return name, chart.indices, chart.coordinates


def _lookup(
    store: SavedTrainings | None, dataset: EmbeddingDataset, name: str
) -> tuple[np.ndarray, np.ndarray] | None:
    found = None if store is None else store.get(_key(dataset, name))
    if found is None or set(found.arrays) != {"indices", "coordinates"}:
        return None
    return found.arrays["indices"], found.arrays["coordinates"]


def _key(dataset: EmbeddingDataset, name: str) -> str:
    """Return the hash of what decides a map: embeddings, labels (they choose), what makes it."""
    from nver.report import projection

    source = hashlib.sha256(Path(projection.__file__).read_bytes()).hexdigest()
    digest = Digest().add("map", source, provenance.versions())
    return digest.add(dataset.view(name), dataset.y).key


def _rows(
    dataset: EmbeddingDataset, name: str, indices: np.ndarray, coordinates: np.ndarray
) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            "file": [dataset.files[row] for row in indices],
            "encoder": name,
            "x": coordinates[:, 0],
            "y": coordinates[:, 1],
            "label": dataset.y[indices],
            "speaker": None if dataset.speakers is None else dataset.speakers[indices],
        }
    )
