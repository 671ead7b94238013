"""A small run folder as `nver evaluate` leaves it, whose parts a test may change before reading."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

LABELS = ["anger", "fear", "joy"]
SPEAKERS = 6
TAKES = 4


def entry(name: str, encoders: list[str], uar: tuple[float | None, ...]) -> dict[str, Any]:
    estimate = dict(zip(("value", "low", "high"), uar, strict=True))
    return {
        "name": name,
        "encoders": encoders,
        "uar": estimate,
        "accuracy": estimate,
        "macro_f1": estimate,
        "per_class": {},
        "seconds": 12.5,
    }


def predictions(systems: list[dict[str, Any]]) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {
            "clip": f"{label}{speaker}{take}",
            "file": f"{speaker}/{label}_{take}.wav",
            "speaker": speaker,
            "label": label,
            "system": system["name"],
            "encoders": "+".join(system["encoders"]),
            "seed": 0,
            "fold": str(int(speaker) % 2),
            "predicted": label if rng.random() < 0.6 else LABELS[rng.integers(3)],
        }
        for system in systems
        for speaker in (f"{i:02d}" for i in range(SPEAKERS))
        for label in LABELS
        for take in range(TAKES)
    ]
    return pd.DataFrame(rows)


@dataclass
class FakeRun:
    """The content of a run folder, before it is written."""

    systems: list[dict[str, Any]] = field(
        default_factory=lambda: [
            entry("fcn", ["spectral"], (0.54, 0.47, 0.62)),
            entry("lda", ["spectral"], (0.60, 0.52, 0.68)),
            entry("concat-lda", ["spectral", "prosodic"], (0.64, 0.58, 0.70)),
            entry("mata", ["spectral", "prosodic"], (0.66, 0.60, 0.72)),
            entry("mata-transductive", ["spectral", "prosodic"], (0.70, 0.65, 0.75)),
        ]
    )
    scores: dict[str, Any] = field(
        default_factory=lambda: {
            "corpus": "toy",
            "folds": "speaker",
            "k": 2,
            "labels": LABELS,
            "chance_uar": 1 / 3,
        }
    )
    run: dict[str, Any] = field(
        default_factory=lambda: {
            "nver": "0.1.0",
            "command": "nver evaluate toy -e spectral -e prosodic --out RUN",
            "settings": {"corpus": "toy", "k": 2},
            "corpus": {
                "name": "toy",
                "title": "Toy bursts",
                "licence": "CC BY 4.0",
                "citation": "Toy et al. 2026",
                "url": "https://example.org/toy",
                "synthetic": False,
                "non_commercial": False,
                "warning": "",
            },
            "encoders": [
                {"name": name, "licence": "Apache-2.0", "citation": "", "dim": 10, "rate": 16000}
                for name in ("spectral", "prosodic")
            ],
            "leakage": {"clean": True, "sentences": []},
            "extraction": {"encoded": 144, "reused": 0, "failures": 0},
            "hardware": {"cpu": "abacus", "cores": 2, "memory_gib": 4.0, "gpu": None},
            "started": "2026-01-02T03:04:05+00:00",
            "seconds": 61.0,
            "warnings": [],
        }
    )
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    predictions: pd.DataFrame | None = None
    projection: bool = True

    def write(self, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        table = predictions(self.systems) if self.predictions is None else self.predictions
        table.to_parquet(folder / "predictions.parquet")
        scores = self.scores | {"systems": self.systems}
        (folder / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
        (folder / "run.json").write_text(json.dumps(self.run), encoding="utf-8")
        failures = pd.DataFrame(self.failures, columns=["file", "stage", "reason"])
        failures.to_csv(folder / "failures.csv", index=False)
        if self.projection:
            clips = table.drop_duplicates("file")
            xy = np.random.default_rng(1).normal(size=(len(clips), 2))
            parts = [
                clips[["file", "label", "speaker"]].assign(encoder=name, x=xy[:, 0], y=xy[:, 1])
                for name in ("spectral", "prosodic")
            ]
            pd.concat(parts).to_parquet(folder / "projection.parquet")
        return folder
