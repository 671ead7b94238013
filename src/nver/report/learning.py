"""Learning curves: the loss of each network, epoch by epoch, over its folds and seeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from nver.report.charts import Axis, Line, line_chart, ticks
from nver.report.record import RunRecord
from nver.report.tables import SystemScore

KINDS = (("training_loss", "training", "first"), ("validation_loss", "validation", "second"))


@dataclass(frozen=True, eq=False)
class Curve:
    """A drawn curve: whose, of how many trainings and epochs, and whether clips were held out."""

    system: SystemScore
    trainings: int
    epochs: str
    validated: bool
    svg: Markup


def learning_curves(record: RunRecord, most: int) -> list[Curve]:
    """Return the curves of the networks, best first, at most `most`; all on the same axes."""
    if record.curves is None or record.curves.empty:
        return []
    parts = {
        (str(name), str(heard)): rows
        for (name, heard), rows in record.curves.groupby(["system", "encoders"], sort=False)
    }
    chosen = [system for system in record.systems if system.key in parts][:most]
    summaries = {
        system: {kind: summary(parts[system.key], kind) for kind, _, _ in KINDS}
        for system in chosen
    }
    drawn = [table for tables in summaries.values() for table in tables.values() if len(table)]
    if not drawn:
        return []
    last = max(int(table.index.max()) for table in drawn)
    low = min(float(table["low"].min()) for table in drawn)
    high = max(float(table["high"].max()) for table in drawn)
    x = Axis("epoch", 0, max(last, 1), ticks(0, max(last, 1)))
    y = Axis("cross-entropy (nats)", low, high, ticks(low, high))
    return [_curve(system, parts[system.key], summaries[system], x, y) for system in chosen]


def summary(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return mean, lowest and highest loss by epoch, as long as half of the trainings go on."""
    known = rows.dropna(subset=[kind])
    table = known.groupby("epoch")[kind].agg(["mean", "min", "max", "count"])
    table.columns = pd.Index(["mean", "low", "high", "count"])
    return table[2 * table["count"] >= table["count"].max()] if len(table) else table


def _curve(
    system: SystemScore, rows: pd.DataFrame, tables: dict[str, pd.DataFrame], x: Axis, y: Axis
) -> Curve:
    lengths = rows.groupby(["seed", "fold"])["epoch"].max() + 1
    shortest, longest = int(lengths.min()), int(lengths.max())
    epochs = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
    alt = f"Losses of {system.title} over {epochs} epochs of {len(lengths)} trainings."
    drawn = line_chart(list(_lines(tables)), x, y, alt, width=360)
    return Curve(system, len(lengths), epochs, len(tables["validation_loss"]) > 0, drawn)


def _lines(tables: dict[str, pd.DataFrame]) -> Iterator[Line]:
    for kind, name, look in KINDS:
        table = tables[kind]
        if len(table):
            points = list(zip(table.index.astype(float), table["mean"].tolist(), strict=True))
            yield Line(name, look, points, table["low"].tolist(), table["high"].tolist())
