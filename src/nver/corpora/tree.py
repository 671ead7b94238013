"""The sound files of a folder, and how a reader's judgement of each makes a corpus.

Files and folders whose name starts with a dot are ignored: macOS leaves ``._x.wav``, ``.DS_Store``.
Only regular files are sounds: to open a pipe that nobody writes to would wait for ever.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from nver.corpora.base import Clip, Corpus, CorpusCard, Refusal
from nver.errors import CorpusError

SOUND_SUFFIXES = frozenset(
    (
        *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".mp4", ".webm"),
        *(".aif", ".aiff", ".caf", ".au", ".wma", ".3gp"),
    )
)

Parsed = Clip | Refusal | None
"""What a reader says of one sound file; None: it belongs to another subset."""

Parse = Callable[[Path, PurePosixPath], Parsed]
"""(root, file relative to it) -> what it is."""

_POINTER = b"version https://git-lfs"


def sound_files(root: Path) -> Iterator[PurePosixPath]:
    """Yield the sound files under `root`, relative to it, sorted within each folder.

    Links to folders are followed, each real folder once.
    """
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = PurePosixPath(Path(folder).relative_to(root).as_posix())
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in SOUND_SUFFIXES:
                yield relative / name


def gather(
    card: CorpusCard,
    root: Path,
    subset: str,
    parse: Parse,
    *,
    notes: Sequence[str] = (),
    unique_names: bool = True,
) -> Corpus:
    """Return the corpus of all sound files under `root` that `parse` takes for clips.

    Parameters
    ----------
    card, root, subset, notes
        As in `Corpus`. An empty ``card.labels`` means whatever labels occur, sorted.
    parse : callable (root, file) -> Clip, Refusal or None
        What one file is.
    unique_names : bool
        Where a file's name identifies the clip, the second file of a name (an archive unpacked
        twice) is refused.

    Raises
    ------
    CorpusError
        If `root` is no folder, or no clip lies under it; the message gives the expected layout.
    """
    if not root.is_dir():
        raise absent(card, root)
    clips: dict[str, Clip] = {}
    refused: list[Refusal] = []
    for file in sound_files(root):
        parsed = _checked(root, file, parse)
        key = file.name if unique_names else str(file)
        if isinstance(parsed, Clip) and key in clips:
            parsed = Refusal(parsed.file, f"has the same name as {clips[key].file}")
        if isinstance(parsed, Clip):
            clips[key] = parsed
        elif parsed is not None:
            refused.append(parsed)
    if not clips:
        raise _empty(card, root, subset, refused)
    present = {clip.emotion for clip in clips.values()}
    labels = tuple(label for label in card.labels or sorted(present) if label in present)
    return Corpus(card, root, tuple(clips.values()), labels, tuple(refused), subset, tuple(notes))


def printable(text: str) -> bool:
    """Return whether `text` can be written as UTF-8; a file name from a disk need not be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def absent(card: CorpusCard, root: Path) -> CorpusError:
    """Return the error for a corpus that is not here: where to get it, under which terms."""
    return CorpusError(
        f"{card.title} is not at {root}. Get it from {card.url} (licence: {card.licence}), "
        f"unpack it, and pass its folder with --root (root= in Python). "
        f"Expected below it: {card.layout}."
    )


def _checked(root: Path, file: PurePosixPath, parse: Parse) -> Parsed:
    if not printable(str(file)):
        return Refusal(ascii(str(file))[1:-1], "its name is not valid UTF-8: rename it")
    parsed = parse(root, file)
    reason = _no_sound(parsed.path) if isinstance(parsed, Clip) else None
    return parsed if reason is None else Refusal(str(file), reason)


def _no_sound(path: Path) -> str | None:
    if (reason := not_regular(path)) is not None:
        return reason
    if _is_pointer(path):
        return "is a Git LFS pointer, not sound: run `git lfs pull` there"
    return None


def not_regular(path: Path) -> str | None:
    """Return why `path` is no regular file (nor a link to one), or None if it is. Opens nothing."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "is a link to nothing" if path.is_symlink() else "there is no such file"
    except OSError as error:
        return f"cannot be looked up: {error.strerror}"
    if stat.S_ISREG(mode):
        return None
    return (
        "is a folder" if stat.S_ISDIR(mode) else "is no regular file but a pipe, socket or device"
    )


def _is_pointer(path: Path) -> bool:
    if path.stat().st_size > 1024:
        return False
    with path.open("rb") as stream:
        return stream.read(len(_POINTER)) == _POINTER


def _empty(card: CorpusCard, root: Path, subset: str, refused: Sequence[Refusal]) -> CorpusError:
    seen = "none of the sound files there belongs to it"
    if refused:
        first = refused[0]
        seen = f"{len(refused)} sound files were refused, the first: {first.file}: {first.reason}"
    elif next(sound_files(root), None) is None:
        seen = "no sound files lie there"
    return CorpusError(
        f"No clip of {card.title} (subset '{subset}') under {root}: {seen}. "
        f"Expected: {card.layout}."
    )
