"""What a run is asked to do: the corpus, the encoders, the systems, the folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nver.encoders import Encoder, load_encoder
from nver.errors import SettingsError
from nver.recipes import RECIPES
from nver.registry import unknown


@dataclass(frozen=True)
class EncoderChoice:
    """An encoder as it is asked for: its name, checkpoint and options.

    >>> EncoderChoice.parse("speech=facebook/wav2vec2-base,layer=9").options
    {'layer': 9}
    """

    name: str
    checkpoint: str | None = None
    options: Mapping[str, str | int | float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> EncoderChoice:
        """Read ``NAME[=CHECKPOINT][,KEY=VALUE...]``; numbers are read as numbers.

        A checkpoint may have commas in its path, if it exists.

        Raises
        ------
        SettingsError
            If an option is not ``KEY=VALUE``.
        """
        parts = text.split(",")
        named = _parts_of_path(parts)
        rest = parts[named:]
        name, _, checkpoint = ",".join(parts[:named]).partition("=")
        options: dict[str, str | int | float] = {}
        for part in rest:
            key, equals, value = part.partition("=")
            if not key or not equals:
                raise SettingsError(
                    f"Expected -e NAME[=CHECKPOINT][,KEY=VALUE...], got '{part}' in '{text}'."
                )
            name_of = key.strip().replace("-", "_")
            text_only = name_of == "alias"
            options[name_of] = value.strip() if text_only else _number(value.strip())
        return cls(name.strip(), checkpoint or None, options)

    def __str__(self) -> str:
        """Return the text that `parse` reads it from."""
        checkpoint = f"={self.checkpoint}" if self.checkpoint else ""
        options = (f",{name}={value}" for name, value in self.options.items())
        return f"{self.name}{checkpoint}{''.join(options)}"

    def load(self) -> Encoder:
        """Build the encoder.

        Raises
        ------
        UnknownNameError, MissingExtraError, CheckpointError, SettingsError
        """
        return load_encoder(self.name, checkpoint=self.checkpoint, **self.options)


def _parts_of_path(parts: Sequence[str]) -> int:
    """Return how many parts between commas, from the first, name the encoder and its checkpoint."""
    for count in range(len(parts), 1, -1):
        path = ",".join(parts[:count]).partition("=")[2]
        if path and Path(path).expanduser().exists():
            return count
    return 1


def _number(text: str) -> str | int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@dataclass(frozen=True)
class Settings:
    """What a run is asked to do.

    Parameters
    ----------
    corpus : str
        A name from the table, a folder, or a manifest.
    encoders : tuple of EncoderChoice or str
        At least one; a text is read as on the command line.
    systems : tuple of str
        Names from `nver systems`, or ``FILE.py:CLASS``; empty means all of the former.
    root, subset, label_column
        Passed to `load_corpus`.
    folds : str or None
        A name of `nver.protocols.PROTOCOLS`; None means "random" where no speaker is known and
        "speaker" elsewhere.
    k : int
        Number of folds, from 2.
    seeds : int
        Trainings of each neural system, from 1.
    pairs : bool
        Fuse every pair of encoders as well as all of them together.
    allow_leak : bool
        Go on although audio stands on both sides of a fold.
    jobs : int or None
        Processes; None means one per core.
    device : str
        Where networks are trained, "cpu" or "cuda".
    batch_size : int
        Clips that an encoder gets at once.
    perturb : tuple of str
        What happens to the test clips, each alone (`nver.perturbation`); empty leaves them as they
        are. "all" is a set of usual ones.
    tune : int or None
        Settings to try for each system in each fold, inside its training part, from 2: those of
        networks, and the layer of each encoder given with ``layer=all``. None takes the systems and
        the embeddings as they are.
    recipe : {"nver", "paper"}
        How networks are trained (`nver.recipes`).
    calibrate : bool
        Also predict the clips of each fold's training part, by models of inner folds: temperature
        and conformal thresholds are found on them.
    """

    corpus: str
    encoders: tuple[EncoderChoice | str, ...]
    systems: tuple[str, ...] = ()
    root: Path | None = None
    subset: str | None = None
    label_column: str | None = None
    folds: str | None = None
    k: int = 5
    seeds: int = 1
    pairs: bool = False
    allow_leak: bool = False
    jobs: int | None = None
    device: str = "cpu"
    batch_size: int = 32
    tune: int | None = None
    recipe: str = "nver"
    calibrate: bool = False
    perturb: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot run.

        Raises
        ------
        SettingsError
            If there is no encoder, or a count is out of range.
        UnknownNameError
            If there is no such recipe.
        """
        if self.recipe not in RECIPES:
            raise unknown("recipe", self.recipe, RECIPES)
        if not self.encoders:
            raise SettingsError("Expected at least one encoder (-e NAME); see `nver encoders`.")
        if self.k < 2 or self.seeds < 1:
            raise SettingsError(f"Expected k >= 2 and seeds >= 1, got {self.k} and {self.seeds}.")
        if self.tune is not None and self.tune < 2:
            raise SettingsError(f"Expected at least 2 settings to try (--tune), got {self.tune}.")

    @property
    def choices(self) -> tuple[EncoderChoice, ...]:
        """The encoders, read."""
        return tuple(
            EncoderChoice.parse(entry) if isinstance(entry, str) else entry
            for entry in self.encoders
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return asdict(self) | {
            "encoders": [asdict(choice) for choice in self.choices],
            "systems": list(self.systems),
            "perturb": list(self.perturb),
            "root": None if self.root is None else str(self.root),
        }


def demo_settings(jobs: int | None = None) -> Settings:
    """Return the settings of `nver demo`: the synthetic corpus and the weight-free encoders."""
    return Settings("synthetic", ("spectral", "prosodic"), jobs=jobs)
