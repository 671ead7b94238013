"""A folder with one sub-folder per label: the layout that a person's own clips most often have.

``ROOT/<label>/**/*.wav``: the first folder below the root is the label, whatever lies between it
and the file. Speakers are unknown, unless a pattern says where they stand in the path; folds that
keep speakers apart need them, so a manifest with a speaker column is the better way.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from nver.corpora.base import Clip, Corpus, CorpusCard, Refusal
from nver.corpora.own import own_card
from nver.corpora.tree import Parsed, gather
from nver.errors import CorpusError
from nver.protocols import without_speaker

_CARD = CorpusCard(
    name="folder",
    title="the folder",
    summary="Clips in one sub-folder per label.",
    licence="not stated",
    citation="not stated",
    url="",
    clips=None,
    speakers=None,
    labels=(),
    rate=None,
    layout="<label>/<any name>.wav (or another sound format), at least one sub-folder with clips",
)


def read_folder(path: Path, speaker_pattern: str | None = None) -> Corpus:
    r"""Return the clips of a folder, labelled by sub-folder.

    Parameters
    ----------
    path : Path
        The folder.
    speaker_pattern : str, optional
        A regular expression with a group ``speaker``, searched in the path relative to the folder:
        ``r"/(?P<speaker>\w+)_\d+\.wav$"``. A file that it does not match is refused.

    Raises
    ------
    CorpusError
        If there is no folder, no labelled clip in it, or the pattern has no group ``speaker``.
    """
    pattern = None if speaker_pattern is None else re.compile(speaker_pattern)
    if pattern is not None and "speaker" not in pattern.groupindex:
        raise CorpusError(
            f"A speaker pattern needs a group (?P<speaker>...), got {speaker_pattern!r}."
        )
    if not path.is_dir():
        raise CorpusError(f"There is no folder {path}.")
    path = path.absolute()
    found = gather(_CARD, path, "all", partial(parse, pattern=pattern), unique_names=False)
    notes = () if pattern else (without_speaker(len(found.clips), len(found.clips)),)
    card = own_card(path.name or "folder", path, found.clips, found.labels)
    return replace(found, card=card, notes=notes)


def parse(root: Path, file: PurePosixPath, pattern: re.Pattern[str] | None = None) -> Parsed:
    """Return what a sound file is; see `read_folder`."""
    if len(file.parts) == 1:
        return Refusal(str(file), "lies in no label's sub-folder")
    match = pattern.search(str(file)) if pattern else None
    if pattern is not None and match is None:
        return Refusal(str(file), f"does not match the speaker pattern {pattern.pattern!r}")
    speaker = match["speaker"] if match else None
    return Clip(root / file, str(file), file.parts[0], speaker)
