"""A run folder with everything that `nver evaluate` may record: for tests of what reads it.

The numbers are drawn, not measured; names, columns and types are those of the real record.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

BATCH = 32


def enrich(folder: Path, audio: Path | None = None, seed: int = 0) -> Path:
    """Add the optional files and keys to a run folder.

    Parameters
    ----------
    folder : Path
        A run folder.
    audio : Path or None
        Where the clips lie; None means beside the run folder.
    seed : int
        Of the drawn numbers.
    """
    rng = np.random.default_rng(seed)
    predictions = pd.read_parquet(folder / "predictions.parquet")
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    systems = [(entry["name"], entry["encoders"]) for entry in scores["systems"]]
    clips = _clips(predictions, audio or folder.parent / "audio", rng)
    clips.to_parquet(folder / "clips.parquet", index=False)
    networks = [(name, heard) for name, heard in systems if not name.endswith("lda")]
    _curves(networks, rng).to_parquet(folder / "curves.parquet", index=False)
    coupled = [(name, heard) for name, heard in systems if name.startswith("mata")]
    _plans(coupled, clips, rng).to_parquet(folder / "plans.parquet", index=False)
    scores["comparisons"] = _comparisons(scores["systems"], rng)
    scores["disaggregated"] = [_groups(name, heard, clips, rng) for name, heard in systems]
    scores["calibration"] = [_calibration(name, heard, rng) for name, heard in systems]
    scores["robustness"] = [_robustness(entry, rng) for entry in scores["systems"]]
    run["identity"] = _identity(rng)
    run["published"] = PUBLISHED
    run["tuning"] = _tuning(systems, predictions)
    for name, content in (("scores.json", scores), ("run.json", run)):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


PUBLISHED = [
    {
        "corpus": "VIVAE",
        "system": "MATA (LanguageBind + ImageBind)",
        "accuracy": 0.7512,
        "macro_f1": 0.7463,
        "protocol": "5-fold, speakers in training and test",
        "source": "Chetia Phukan et al. 2025, Table I",
    },
    {
        "corpus": "VIVAE",
        "system": "LanguageBind alone",
        "accuracy": 0.6912,
        "macro_f1": None,
        "protocol": "5-fold, speakers in training and test",
        "source": "Chetia Phukan et al. 2025, Table I",
    },
]


def _near(value: float, rng: np.random.Generator, width: float = 0.03) -> dict[str, float]:
    value = float(np.clip(value + rng.normal(0, 0.01), 0.01, 0.99))
    return {"value": value, "low": max(value - width, 0.0), "high": min(value + width, 1.0)}


def _clips(predictions: pd.DataFrame, audio: Path, rng: np.random.Generator) -> pd.DataFrame:
    clips = predictions.drop_duplicates("file")[["clip", "file", "label", "speaker"]].copy()
    clips.insert(2, "path", [str(audio / file) for file in clips["file"]])
    clips["seconds"] = rng.uniform(0.4, 3.0, len(clips))
    clips["sex"] = [("female", "male")[len(str(s)) % 2] for s in clips["speaker"]]
    clips["intensity"] = rng.choice(["low", "peak"], len(clips))
    return clips.reset_index(drop=True)


def _curves(networks: list[Any], rng: np.random.Generator) -> pd.DataFrame:
    rows = [
        {
            "system": name,
            "encoders": "+".join(heard),
            "seed": 0,
            "fold": str(fold),
            "epoch": epoch,
            "training_loss": 2.4 * np.exp(-epoch / 8) + rng.normal(0, 0.02),
            "validation_loss": 1.6 + 0.8 * np.exp(-epoch / 5) + rng.normal(0, 0.03)
            if fold != 4
            else None,
        }
        for name, heard in networks
        for fold in range(5)
        for epoch in range(int(rng.integers(12, 30)))
    ]
    return pd.DataFrame(rows)


def _plans(coupled: list[Any], clips: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    tables = []
    for name, heard in coupled:
        batch = clips.sample(min(BATCH, len(clips)), random_state=1)
        same = batch["label"].to_numpy()[:, None] == batch["label"].to_numpy()[None]
        for source in heard:
            for target in heard:
                if source == target:
                    continue
                mass = rng.gamma(0.3, size=same.shape) * np.where(same, 4.0, 1.0)
                mass /= mass.sum()
                n = len(batch)
                tables.append(
                    pd.DataFrame(
                        {
                            "system": name,
                            "encoders": "+".join(heard),
                            "fold": "0",
                            "seed": 0,
                            "source": source,
                            "target": target,
                            "source_file": np.repeat(batch["file"].to_numpy(), n),
                            "target_file": np.tile(batch["file"].to_numpy(), n),
                            "source_label": np.repeat(batch["label"].to_numpy(), n),
                            "target_label": np.tile(batch["label"].to_numpy(), n),
                            "mass": mass.ravel(),
                        }
                    )
                )
    return pd.concat(tables, ignore_index=True)


def _comparisons(systems: list[dict[str, Any]], rng: np.random.Generator) -> dict[str, Any]:
    alone = [s for s in systems if "transductive" not in s["name"]]
    top = max(alone, key=lambda s: s["uar"]["value"] or 0)
    pairs = []
    for system in systems:
        if system is top:
            continue
        gap = (top["uar"]["value"] or 0) - (system["uar"]["value"] or 0)
        p = float(rng.uniform(0.0, 0.01) if gap > 0.02 else rng.uniform(0.1, 0.9))
        pairs.append(
            {
                "name": system["name"],
                "encoders": system["encoders"],
                "difference": gap,
                "low": gap - 0.02,
                "high": gap + 0.02,
                "p": p,
                "p_corrected": min(3 * p, 1.0),
                "effect": 20 * gap,
                "effect_name": "Cohen's d over speakers",
                "distinguishable": gap > 0.02,
                "mcnemar": {"b": 31, "c": 22, "p": 0.27},
            }
        )
    return {
        "metric": "uar",
        "method": "paired sign-flip permutation test over speakers",
        "alpha": 0.05,
        "correction": "step-down max-T",
        "reference": {"name": top["name"], "encoders": top["encoders"]},
        "detectable": 0.018,
        "pairs": pairs,
        "caution": "",
    }


def _groups(
    name: str, heard: list[str], clips: pd.DataFrame, rng: np.random.Generator
) -> dict[str, Any]:
    by = {}
    for column in ("label", "sex", "intensity", "speaker"):
        parts = clips.dropna(subset=[column]).groupby(column)
        metric = {"label": "recall", "speaker": "accuracy"}.get(column, "uar")
        by["class" if column == "label" else column] = [
            {
                "value": str(value),
                "n_clips": len(rows),
                "n_speakers": int(rows["speaker"].nunique()),
                "metric": metric,
                "score": (score := _near(float(rng.uniform(0.3, 0.6)), rng))["value"],
                "low": score["low"],
                "high": score["high"],
            }
            for value, rows in parts
        ]
    worst = ["Lowest by sex: male, UAR 44.1 % against 48.7 % of female."]
    return {"name": name, "encoders": heard, "by": by, "worst": worst}


def _calibration(name: str, heard: list[str], rng: np.random.Generator) -> dict[str, Any]:
    def scored(excess: float) -> dict[str, Any]:
        edges = np.linspace(0, 1, 16)
        bins: list[dict[str, Any]] = [
            {
                "low": float(low),
                "high": float(high),
                "confidence": float((low + high) / 2) if low > 0.1 else None,
                "accuracy": float(np.clip((low + high) / 2 - excess, 0, 1)) if low > 0.1 else None,
                "n": int(rng.integers(5, 200)) if low > 0.1 else 0,
            }
            for low, high in itertools.pairwise(edges)
        ]
        return {
            "ece": excess + 0.01,
            "brier": 0.6 + excess,
            "log_loss": 1.5 + excess,
            "reliability": bins,
        }

    shares = np.linspace(0.05, 1, 20)
    return {
        "name": name,
        "encoders": heard,
        "raw": scored(0.12),
        "coverage": [{"coverage": float(s), "accuracy": float(0.9 - 0.42 * s)} for s in shares],
        "aurc": 0.31,
        "scaled": scored(0.02) | {"temperature": 1.7, "temperatures": {"0": 1.6, "1": 1.8}},
        "conformal": {
            "alpha": 0.1,
            "coverage": 0.903,
            "interval": {"value": 0.903, "low": 0.88, "high": 0.92},
            "mean_size": 4.3,
            "empty": 0.01,
            "singletons": 0.12,
            "size_counts": [3, 60, 120, 240, 180, 90, 20],
            "method": "least ambiguous sets (LAC)",
        },
    }


def _robustness(entry: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    clean = entry["uar"]["value"] or 0.3
    drops = {
        "noise-20": ("Noise at 20 dB", 0.03),
        "noise-0": ("Noise at 0 dB", 0.2),
        "reverb": ("Reverberation", 0.08),
        "telephone": ("Telephone, 8 kHz", 0.05),
        "mp3": ("MP3 at 32 kbit/s", 0.005),
        "gain": ("6 dB quieter", -0.001),
    }
    return {
        "name": entry["name"],
        "encoders": entry["encoders"],
        "clean": entry["uar"],
        "perturbations": [
            {
                "name": name,
                "title": title,
                "uar": _near(max(clean - drop, 0.05), rng),
                "drop": {"value": drop, "low": drop - 0.02, "high": drop + 0.02},
            }
            for name, (title, drop) in drops.items()
        ],
    }


def _identity(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "columns": ["speaker", "session"],
        "uar": _near(0.086, rng, 0.01),
        "accuracy": _near(0.086, rng, 0.01),
        "chance_uar": 1 / 12,
        "alarm": False,
        "sentence": "From the speaker and session codes alone, with no sound, UAR 8.6 %: no more "
        "than chance.",
        "per_column": [
            {"column": column, "uar": _near(0.085, rng, 0.01)} for column in ("speaker", "session")
        ],
    }


def _tuning(systems: list[Any], predictions: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "encoders": heard,
            "fold": str(fold),
            "chosen": {"learning_rate": 0.0012, "dropout": 0.31},
            "uar": 0.45,
            "default_uar": 0.44,
            "inner": "3 folds by speaker",
            "trials": 16,
        }
        for name, heard in systems
        if not name.endswith("lda")
        for fold in sorted(predictions["fold"].unique())
    ]
