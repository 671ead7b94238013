"""The corpora that nver reads, by name, and how a person's own clips become one.

``CORPUS`` on the command line, and the first argument of `load_corpus`, is a name from the table, a
folder with one sub-folder per label, or a manifest (CSV, TSV or Parquet).
"""

from __future__ import annotations

import os
from dataclasses import replace
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
    """Return where a corpus of the table is looked for when no root is given.

    NVER_HOME/corpora/ and the card's folder, which is the corpus's name unless the card says
    otherwise.

    Raises
    ------
    UnknownNameError
        If the table has no such name.
    """
    return home() / "corpora" / (corpus_card(name).folder or name)


def load_corpus(
    name_or_path: str | Path,
    root: str | Path | None = None,
    subset: str | None = None,
    label_column: str | None = None,
) -> Corpus:
    """Return a corpus: from the table, from a folder per label, or from a manifest.

    A folder that holds a ``metadata.csv`` with the columns of a manifest is read through it, since
    it may know the speakers; the corpus's notes say so.

    Parameters
    ----------
    name_or_path : str or Path
        A name from the table wins over a folder of that name (write ``./NAME`` for the folder).
    root : path, optional
        Where a corpus of the table lies (default: `default_root`), or what a manifest's paths are
        relative to (default: the manifest's folder).
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
                f"A label column belongs to a manifest; corpus '{name_or_path}' has its own labels."
            )
        reader: CorpusReader = CORPORA.load(name_or_path)()
        return reader.read((where or default_root(name_or_path)).absolute(), subset)
    if subset is not None:
        raise CorpusError(
            f"'{name_or_path}' is no corpus of the table and has no subset '{subset}'. "
            f"The table: {', '.join(CORPORA.names())}."
        )
    return _read_path(Path(name_or_path).expanduser(), str(name_or_path), where, label_column)


def _read_path(path: Path, given: str, root: Path | None, label_column: str | None) -> Corpus:
    from nver.corpora.manifest import SUFFIXES, read_manifest

    if path.is_dir():
        return _read_dir(path, root, label_column)
    if path.is_file():
        return read_manifest(path, root=root, label_column=label_column)
    looks = os.sep in given or "/" in given or given.startswith((".", "~"))
    if looks or path.suffix.lower() in SUFFIXES:
        raise CorpusError(
            f"There is no such folder or manifest: {given}. Expected a folder with one sub-folder "
            f"per label, a manifest ({', '.join(SUFFIXES)}), or a name: "
            f"{', '.join(CORPORA.names())}."
        )
    raise unknown("corpus", given, CORPORA.targets())


def _read_dir(path: Path, root: Path | None, label_column: str | None) -> Corpus:
    from nver.corpora.folder import read_folder
    from nver.corpora.manifest import is_manifest, read_manifest

    manifest = path / "metadata.csv"
    if manifest.is_file() and is_manifest(manifest, label_column):
        corpus = read_manifest(manifest, root, label_column)
        note = "The folder was read through its metadata.csv, not by its sub-folders."
        return replace(corpus, notes=(note, *corpus.notes))
    if label_column is not None:
        raise CorpusError(
            f"A label column belongs to a manifest, and {path} is a folder without a metadata.csv "
            f"that has the columns 'file' and '{label_column}'."
        )
    if root is not None:
        raise CorpusError(f"A root belongs to a name or a manifest; {path} is a folder of clips.")
    return read_folder(path)
