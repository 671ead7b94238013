"""The report of a run: tables, figures and one HTML page, all derived from the record.

`write_report` needs the run folder alone: no store, no audio, no torch. The same folder gives the
same files, byte for byte.
"""

from __future__ import annotations

from pathlib import Path

PAGE = "report.html"


def write_report(run_folder: Path, *, paths: bool = True, megabytes: float | None = None) -> Path:
    """Write the figures and the page of a run folder, replacing earlier ones.

    Parameters
    ----------
    run_folder : Path
        Holds predictions.parquet, scores.json, run.json, failures.csv, and whatever else the run
        recorded (projection.parquet, clips.parquet, curves.parquet, plans.parquet).
    paths : bool
        Whether the page says where the clips lie, relative to the run folder, so that they can be
        played. Without, it holds no path of this machine.
    megabytes : float or None
        Embed clips into the page, every label in turn, up to this size; None embeds none.

    Returns
    -------
    Path
        Of report.html. The figures are in ``figures/``: ``confusion-SYSTEM-ENCODERS.svg`` and
        ``map-ENCODER.svg``.

    Raises
    ------
    NverError
        If the folder lacks a file, or holds one that nver did not write.
    """
    from nver.report.clip_list import Sharing
    from nver.report.html import page
    from nver.report.record import read_record
    from nver.report.run_figures import confusion_figures, encoder_maps, write_figures, write_text

    record = read_record(run_folder)
    confusions = confusion_figures(record)
    maps = encoder_maps(record)
    text = page(record, confusions, maps, Sharing(paths, megabytes))
    write_figures(run_folder / "figures", [*confusions.values(), *(one.by_label for one in maps)])
    path = run_folder / PAGE
    write_text(path, text)
    return path
