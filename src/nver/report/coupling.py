"""Who is coupled with whom: the example transport plans of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from nver.report.colours import shade, shortened, text_width
from nver.report.emotions import heat
from nver.report.record import RunRecord
from nver.report.render import render

CELL = 10
STEPS = 12
"""Shades of a plan: cells of one shade are one path, a tenth of the size of as many squares."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A transport plan between the clips of one batch as two encoders hear them.

    Parameters
    ----------
    system, encoders, source, target : str
        Whose plan it is, and between which encoders.
    files, labels : tuple of str [clips]
        The clips of the batch, ordered by label.
    mass : float [clips, clips]
        Source clips in rows, target clips in columns; sums to 1.
    """

    system: str
    encoders: str
    source: str
    target: str
    files: tuple[str, ...]
    labels: tuple[str, ...]
    mass: Float[np.ndarray, "clips clips"]

    @property
    def title(self) -> str:
        """What the plan is of, for people."""
        return f"{self.system}: {self.source} to {self.target}"

    @property
    def same(self) -> float:
        """Share of the mass that stays within its label, in [0, 1]."""
        names = np.asarray(self.labels)
        return float(self.mass[names[:, None] == names[None]].sum())

    @property
    def own(self) -> float:
        """Share of the mass between a clip and itself, in [0, 1]."""
        return float(np.trace(self.mass))

    @property
    def most(self) -> float:
        """Largest share of a source clip's mass that goes to one target clip, in [0, 1]."""
        return float(self.shares().max())

    @property
    def by_chance(self) -> float:
        """What would stay within its label if every clip were coupled with all alike."""
        _, counts = np.unique(np.asarray(self.labels), return_counts=True)
        return float(((counts / len(self.labels)) ** 2).sum())

    def shares(self) -> Float[np.ndarray, "clips clips"]:
        """Return where the mass of each source clip goes; rows sum to 1."""
        rows = self.mass.sum(axis=1, keepdims=True)
        shares: np.ndarray = self.mass / np.where(rows > 0, rows, 1.0)
        return shares

    def by_label(self) -> list[tuple[str, list[tuple[str, str, str]]]]:
        """Return where the mass of each label goes, as a table of heat."""
        names = list(dict.fromkeys(self.labels))
        member = np.asarray(self.labels)[None] == np.asarray(names)[:, None]
        mass = member.astype(float) @ self.mass @ member.T.astype(float)
        shares = mass / np.maximum(mass.sum(axis=1, keepdims=True), 1e-12)
        return [
            (name, [heat(value) for value in row])
            for name, row in zip(names, shares.tolist(), strict=True)
        ]


def plans(record: RunRecord) -> list[Plan]:
    """Return the example plans of a run, those of the best system first."""
    found = list(_plans(record))
    ranks = {system.key: rank for rank, system in enumerate(record.systems)}
    return sorted(found, key=lambda plan: ranks.get((plan.system, plan.encoders), len(ranks)))


def _plans(record: RunRecord) -> Iterator[Plan]:
    if record.plans is None:
        return
    columns = ["system", "encoders", "source", "target"]
    order = {label: place for place, label in enumerate(record.labels)}
    for (system, encoders, source, target), rows in record.plans.groupby(columns, sort=False):
        clips = rows[["source_file", "source_label"]].drop_duplicates("source_file")
        clips = clips.sort_values(
            ["source_label", "source_file"],
            key=lambda values: values.map(order) if values.name == "source_label" else values,
        )
        files = clips["source_file"].tolist()
        table = rows.pivot_table("mass", "source_file", "target_file", aggfunc="sum", fill_value=0)
        table = table.reindex(index=files, columns=files, fill_value=0.0)
        yield Plan(
            str(system),
            str(encoders),
            str(source),
            str(target),
            tuple(files),
            tuple(clips["source_label"]),
            table.to_numpy("float64"),
        )


def plan_svg(plan: Plan) -> Markup:
    """Return a plan as a picture: source clips in rows, target clips in columns, by label."""
    n = len(plan.files)
    shares = plan.shares()
    most = plan.most or 1.0
    levels = np.ceil(shares / most * STEPS).astype(int)
    levels[shares < most / 100] = 0
    names = list(dict.fromkeys(plan.labels))
    starts = [plan.labels.index(name) for name in names]
    short = [shortened(name) for name in names]
    left = round(24 + max(text_width(name) for name in short))
    slant = 0.71 * max(text_width(name) for name in short)
    return render(
        "plan.svg",
        n=n,
        cell=CELL,
        left=left,
        top=round(slant + 34),
        right=round(max(slant, 20) + 4),
        shades=[
            (
                shade(level / STEPS),
                "".join(
                    f"M{x * CELL} {y * CELL}h{CELL}v{CELL}h-{CELL}z"
                    for y, x in np.argwhere(levels == level).tolist()
                ),
            )
            for level in range(1, STEPS + 1)
            if (levels == level).any()
        ],
        groups=[
            (name, start * CELL, (end - start) * CELL)
            for name, start, end in zip(short, starts, [*starts[1:], n], strict=True)
        ],
        alt=(
            f"Transport plan of {plan.title}: {n} clips by {n}. {100 * plan.same:.0f} % of the "
            f"mass stays within its label."
        ),
    )
