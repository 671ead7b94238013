"""The corpora that nver reads, by name, and how a person's own clips become one.

``CORPUS`` on the command line, and the first argument of `load_corpus`, is a name from the table, a
folder with one sub-folder per label, or a manifest (CSV, TSV or Parquet).
"""

from __future__ import annotations

import os
from pathlib import Path

from nver.corpora.base import Clip, Corpus, CorpusCard, CorpusReader, Refusal
from nver.errors import CorpusError
from nver.home import home
from nver.registry import Registry, unknown

__all__ = [
    "CORPORA",
    "Clip",
    "Corpus",
    "CorpusCard",
    "CorpusReader",
    "Refusal",
    "corpus_card",
    "default_root",
    "load_corpus",
]

CORPORA = Registry(
    "corpus",
    {
        "synthetic": "nver.corpora.synthetic:Synthetic",
        "asvp-esd": "nver.corpora.asvp_esd:AsvpEsd",
        "jnv": "nver.corpora.jnv:Jnv",
        "vivae": "nver.corpora.vivae:Vivae",
        "crema-d": "nver.corpora.crema_d:CremaD",
        "emogator": "nver.corpora.emogator:EmoGator",
        "deeply-nvd": "nver.corpora.deeply_nvd:DeeplyNvd",
    },
    group="nver.corpora",
)


def corpus_card(name: str) -> CorpusCard:
    """Return the card of a corpus of the table.

    Raises
    ------
    UnknownNameError
        If the table has no such name.
    """
    reader: CorpusReader = CORPORA.load(name)()
    return reader.card


def default_root(name: str) -> Path:
    """Return where the corpus `name` is looked for when no root is given: NVER_HOME/corpora/NAME."""
    return home() / "corpora" / name


def load_corpus(
    name_or_path: str | Path,
    root: str | Path | None = None,
    subset: str | None = None,
    label_column: str | None = None,
) -> Corpus:
    """Return a corpus: from the table, from a folder per label, or from a manifest.

    Parameters
    ----------
    name_or_path : str or Path
        A name from the table wins over a folder of that name (write ``./NAME`` for the folder).
    root : path, optional
        Where a corpus of the table lies (default: NVER_HOME/corpora/NAME), or what a manifest's paths
        are relative to (default: the manifest's folder).
    subset : str, optional
        A part of a corpus of the table; see its card.
    label_column : str, optional
        The column of a manifest that holds the label (default: ``label``).

    Raises
    ------
    CorpusError
        If it is not there, is empty, or is not laid out as documented.
    UnknownNameError
        If it is neither a known name nor looks like a path.
    """
    where = None if root is None else Path(root).expanduser()
    if isinstance(name_or_path, str) and name_or_path in CORPORA.targets():
        if label_column is not None:
            raise CorpusError(
                f"label_column belongs to manifests; corpus '{name_or_path}' has its own labels."
            )
        reader: CorpusReader = CORPORA.load(name_or_path)()
        return reader.read(where or default_root(name_or_path), subset)
    if subset is not None:
        raise CorpusError(
            f"'{name_or_path}' is a folder or manifest and has no subset '{subset}'; "
            f"subsets belong to the corpora of the table: {', '.join(CORPORA.names())}."
        )
    return _read_path(Path(name_or_path).expanduser(), str(name_or_path), where, label_column)


def _read_path(path: Path, given: str, root: Path | None, label_column: str | None) -> Corpus:
    from nver.corpora.folder import read_folder
    from nver.corpora.manifest import SUFFIXES, read_manifest

    if path.is_dir():
        return read_folder(path, label_column=label_column)
    if path.is_file():
        return read_manifest(path, root=root, label_column=label_column)
    looks = os.sep in given or "/" in given or given.startswith((".", "~"))
    if looks or path.suffix.lower() in SUFFIXES:
        raise CorpusError(
            f"There is no such folder or manifest: {given}. Expected a folder with one sub-folder "
            f"per label, a manifest ({', '.join(SUFFIXES)}), or one of: {', '.join(CORPORA.names())}."
        )
    raise unknown("corpus", given, CORPORA.targets())
