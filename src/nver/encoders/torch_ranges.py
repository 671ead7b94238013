"""Chosen tensors of a `torch.save` file behind HTTP: only their bytes are downloaded.

Such a file is a zip archive whose records are stored as they are: one small record says the
tensors' names and shapes, one record per storage has the numbers. The list of records at the end
and the small records are downloaded first. `torch.load` then reads the names without the numbers,
with ``weights_only``: nothing in it is executed. The records of the chosen tensors follow, each to
its own place in a sparse file as long as the original, and each is checked against the checksum in
the list. Whatever is laid out otherwise is not guessed at: None is returned, and the whole file
must be downloaded.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from nver.encoders.download import BLOCK, Range, download_ranges, merged, part_of
from nver.encoders.http_file import Remote
from nver.encoders.torch_file import Tensors, Wanted, mapped, own
from nver.errors import CheckpointError

LOCAL_HEADER = struct.Struct("<26xHH")  # of a record: length of its name, and of what follows it
TAIL = 1_000_000  # bytes: holds the list of some 8000 records
MOST_SMALL = 64_000_000  # bytes of the records that are no storages


@dataclass(frozen=True)
class Records:
    """The records of an archive, in the order of the file, and where their list begins."""

    infos: tuple[zipfile.ZipInfo, ...]
    end: int

    def span(self, index: int) -> Range:
        """Return the bytes of a record: its local header, padding and content."""
        following = self.infos[index + 1 : index + 2]
        return self.infos[index].header_offset, following[
            0
        ].header_offset if following else self.end

    def small(self) -> list[int]:
        """Return which records are no storages."""
        return [n for n, info in enumerate(self.infos) if "/data/" not in info.filename]


def fetch_tensors(
    remote: Remote, target: Path, wanted: Wanted, before: Callable[[Tensors, int], None]
) -> tuple[Path, Tensors] | None:
    """Return the part and the wanted tensors in float32; None where only the whole file will do.

    Parameters
    ----------
    remote : Remote
        The file; its server gives ranges.
    target : Path
        Beside it lie the parts, see `nver.encoders.download.part_of`.
    wanted : callable
        Whether a tensor of that name is wanted.
    before : callable
        Gets the tensors without numbers and the bytes to come, before they are downloaded; it may
        raise.

    Raises
    ------
    CheckpointError
        If a record has another checksum than the list says.
    """
    sparse = part_of(target, remote, [(0, remote.size or 0)])
    sparse.unlink(missing_ok=True)  # of a run that was killed
    try:
        records = _read_records(remote, sparse)
        if records is None:
            return None
        small = records.small()
        _into(sparse, remote, target, [records.span(index) for index in small])
        owners = _owners(sparse, records)
        if owners is None:
            return None
        named = {name: owner for name, owner in owners.items() if wanted(name)}
        chosen = {index for _, index in named.values()}
        spans = [records.span(index) for index in sorted(chosen)]
        before(
            {name: tensor for name, (tensor, _) in named.items()},
            sum(stop - first for first, stop in spans),
        )
        part = _into(sparse, remote, target, spans)
        damaged = _damaged(sparse, (records.infos[index] for index in {*small, *chosen}))
        if damaged is not None:
            part.unlink(missing_ok=True)
            raise CheckpointError(
                f"{remote.url} came damaged (checksum of {damaged}): it is removed. Run it again."
            )
        return part, {name: own(tensor) for name, tensor in mapped(sparse, wanted).items()}
    finally:
        sparse.unlink(missing_ok=True)


def _read_records(remote: Remote, sparse: Path) -> Records | None:
    """Return the records that the end of the file lists, written to the end of a sparse file."""
    size = remote.size or 0
    start = max(0, size - TAIL)
    _write(sparse, start, remote.read(start, size))
    try:
        with zipfile.ZipFile(sparse) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
            records = Records(tuple(infos), archive.start_dir)
    except (zipfile.BadZipFile, OSError, ValueError):
        return None
    small = sum(records.infos[index].file_size for index in records.small())
    usable = all(
        info.compress_type == zipfile.ZIP_STORED and (info.CRC or not info.file_size)
        for info in infos
    )
    return records if infos and usable and small <= MOST_SMALL and start <= records.end else None


def _write(path: Path, first: int, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "wb") as file:
        file.seek(first)  # what is not written takes no room
        file.write(data)


def _into(sparse: Path, remote: Remote, target: Path, spans: Sequence[Range]) -> Path:
    """Download ranges, write each to its place, and return the part that they came in."""
    ranges = merged(spans)
    part = part_of(target, remote, ranges)
    download_ranges(remote, ranges, part)
    with part.open("rb") as source, sparse.open("r+b") as file:
        for first, stop in ranges:
            file.seek(first)
            for done in range(0, stop - first, BLOCK):
                file.write(source.read(min(BLOCK, stop - first - done)))
    return part


def _owners(sparse: Path, records: Records) -> dict[str, tuple[Tensor, int]] | None:
    """Return each tensor's shape and the index of its record; None if that is not certain.

    A mapped storage begins where the local header of its record says. Where headers are missing
    their zeros say so too, only that the place is another one: all the same, the places of all
    storages, in order, must be those of all records, in order.
    """
    try:
        state = mapped(sparse, lambda _: True)
    except CheckpointError:
        return None  # the whole file is read with a message of its own
    small = set(records.small())
    storages = [index for index in range(len(records.infos)) if index not in small]
    places = _places(sparse, [records.infos[index].header_offset for index in storages])
    pointers = sorted({tensor.untyped_storage().data_ptr() for tensor in state.values()})
    gaps = [pointer - pointers[0] for pointer in pointers]
    if not places or gaps != [place - places[0] for place in places]:
        return None
    index_of = dict(zip(pointers, storages, strict=True))
    return {
        name: (tensor.to("meta"), index_of[tensor.untyped_storage().data_ptr()])
        for name, tensor in state.items()
    }


def _places(sparse: Path, headers: Sequence[int]) -> list[int]:
    """Return where the content of records begins, as their local headers in the file say it."""
    places = []
    with sparse.open("rb") as file:
        for header in headers:
            file.seek(header)
            name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
            places.append(header + LOCAL_HEADER.size + name + extra)
    return places


def _damaged(sparse: Path, infos: Iterable[zipfile.ZipInfo]) -> str | None:
    """Return the name of a record with a wrong checksum."""
    with zipfile.ZipFile(sparse) as archive:
        for info in infos:
            try:
                with archive.open(info) as record:
                    while record.read(BLOCK):
                        pass
            except (zipfile.BadZipFile, EOFError):
                return info.filename
    return None
