"""The first lines of the report: what the figures rest on, before any of them is read.

Corpus, protocol, leakage, what is known without any sound, and chance.
"""

from __future__ import annotations

from nver.protocols import PROTOCOLS, protocol_of
from nver.report.record import RunRecord
from nver.report.statement import Statement, counted
from nver.report.tables import percent


def basis(record: RunRecord) -> tuple[Statement, ...]:
    """Return the points in the order in which they are read; alarms stay in their place."""
    points = (
        _corpus(record),
        _protocol(record),
        _leakage(record),
        _identity(record),
        _chance(record),
    )
    return tuple(point for point in points if point)


def _corpus(record: RunRecord) -> Statement:
    clips = record.clips()
    known = clips["speaker"].dropna().nunique()
    of = f" of {counted(known, 'speaker')}" if known else ", speakers unknown"
    name = record.card.get("title") or record.scores["corpus"]
    text = (
        f"{name}: {counted(len(clips), record.tested)}{of}, {counted(len(record.labels), 'label')}."
    )
    if warning := record.card.get("warning"):
        text += f" {warning}"
    return Statement("Corpus", text, alarm=bool(warning))


def _protocol(record: RunRecord) -> Statement:
    folds = counted(int(record.clips()["fold"].nunique()), "fold")
    protocol = str(record.scores["folds"])
    name = {
        "speaker": f"{folds}, divided by speaker",
        "loso": f"{folds}, one for each speaker",
        "random": f"{folds}, divided at random",
        "published": f"{folds}, as published with the corpus",
    }.get(protocol, f"{folds}, as the corpus's column '{protocol.removeprefix('column:')}' says")
    facts = protocol_of(protocol)
    divided = record.divided_speakers()
    if divided == 0:
        # Folds of another name that share no speaker are speaker-independent all the same.
        own = facts is not None and facts.name in ("speaker", "loso", "published")
        warning = (facts if facts is not None and own else PROTOCOLS["speaker"]).warning
        text = f"{name}. No voice was in training before it was judged. {warning}"
        return Statement("Protocol", text)
    if divided is None:
        doubt = (
            "Some speakers are unknown, so the same voice may be in training and in test. "
            "If it is, the figures are too high for new voices."
        )
    else:
        doubt = (
            f"{counted(divided, 'speaker')} {'is' if divided == 1 else 'are'} in training and in "
            "test alike, so the figures are too high for new voices. Do not compare them with "
            "speaker-independent ones"
        )
        several = record.clips()["speaker"].nunique() > 1
        doubt += "; for those, use --folds speaker." if several else "."
    return Statement("Protocol", f"{name}. {doubt}", alarm=True)


def _leakage(record: RunRecord) -> Statement:
    leakage = record.run["leakage"]
    found = " ".join(str(sentence) for sentence in leakage.get("sentences", ()))
    if leakage.get("clean"):
        verdict = leakage.get("verdict", "Clean: nothing was found on both sides of a fold.")
        return Statement("Leakage check", f"{verdict} {found}".rstrip())
    return Statement("Leakage check", found or "Not clean, or not made.", alarm=True)


def _chance(record: RunRecord) -> Statement:
    chance, heard = percent(record.chance), sum(n > 0 for n in record.supports())
    return Statement("Chance", f"Guessing reaches a UAR of {chance} % ({heard} labels).")


def _identity(record: RunRecord) -> Statement | None:
    told = record.run["identity"]
    text = str(told.get("sentence") or told.get("reason") or "")
    if not text:
        return None
    return Statement("Without any sound", text, alarm=bool(told.get("alarm")))
