"""Examines an experiment in object storage: journal, decisions, driver, checkpoints. Changes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

from ..core.commands import checkpoint_name
from ..errors import JournalError, ShoalError, StorageError
from ..location import location_of, name_of
from ..reading import NothingYet
from ..viewing import View
from .errors import words_of
from .examining import NOTE, OK, PROBLEM, Examination, Finding, Patient, decisions, driver, read
from .sizes import size_text
from .summaries import NEVER_BEGAN, STARTING

__all__ = ["examine_url"]

_SHOWN = 5


def examine_url(url: str, *, trust: bool = False, tell: Callable[[str], None] | None = None) -> Examination:
    """Examine an experiment in object storage. The bytes of checkpoints are not downloaded: their manifests are.

    Args:
        url: where it is.
        trust: whether objects in its settings are loaded, which runs code of whoever wrote the journal.
        tell: told what is being done, for what takes long.
    """
    tell = tell or (lambda text: None)
    result = Examination(name_of(url), url, "damaged")
    tell("downloading the journal")
    try:
        view = View.open(location_of(url))
    except (ShoalError, OSError) as error:
        result.findings.append(Finding(PROBLEM, "journal", words_of(error)))
        return result
    with contextlib.closing(view):
        try:
            running = view.is_running()
            patient = read(view.folder, trust, running=running, place=url)
        except NothingYet as error:
            result.state = STARTING if error.starting else NEVER_BEGAN
            result.findings.append(Finding(NOTE, "journal", "nothing is in it yet"))
            return result
        except (JournalError, StorageError) as error:
            what = "Results and decisions are not certain any more, and the experiment cannot go on."
            result.findings.append(Finding(PROBLEM, "journal", words_of(error), what))
            return result
        result.state = "running" if running else "ended" if patient.ended else "interrupted"
        result.findings.append(Finding(OK, "journal", f"{len(patient.records):,} records, all as they were written"))
        by = view.driver()
        if running and by is not None:
            result.findings.append(Finding(OK, "driver", f"it is being run by process {by[0]} on {by[1]}"))
        for text, check in (
            ("following the decisions", decisions),
            ("looking for the driver", driver),
            ("looking for the checkpoints", partial(_checkpoints, url)),
        ):
            tell(text)
            try:
                result.findings += check(patient)
            except (ShoalError, OSError) as error:
                result.findings.append(Finding(PROBLEM, "storage", f"It cannot be checked: {words_of(error)}"))
    return result


def _checkpoints(url: str, patient: Patient) -> Iterator[Finding]:
    """Compare the manifest of each checkpoint that should be there with the journal."""
    from ..storage.place import Place
    from ..storage.transfer import DamagedCopy, read_manifest
    from ..storage.workers import each

    place = Place(url)

    def problem(folder: str, number: int, digest: str) -> str | None:
        try:
            found = read_manifest(place / folder / checkpoint_name(number))
        except DamagedCopy as error:
            return str(error)
        if found is None:
            return "it is gone"
        return (
            None if found.digest == digest else f"it has the digest {found.digest[:12]}... instead of {digest[:12]}..."
        )

    there = [
        (f"{trial.trial_id}/{checkpoint_name(number)}", trial.folder, number, entry.saved)
        for trial, number, entry, _ in patient.files.checkpoints()
    ]
    told = each(partial(problem, folder, number, saved.digest) for _, folder, number, saved in there)
    wrong = [f"{entry[0]}: {text}" for entry, text in zip(there, told, strict=True) if text is not None]
    size = size_text(sum(saved.size for _, _, _, saved in there))
    if not wrong:
        yield Finding(OK, "checkpoints", f"{len(there):,} with {size}, each with the manifest that the journal expects")
        return
    more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    what = f"{len(wrong)} are not as the journal says: {'; '.join(wrong[:_SHOWN])}{more}."
    if patient.running:
        yield Finding(NOTE, "checkpoints", what, "A run that goes on deletes some while one looks.")
        return
    yield Finding(
        PROBLEM,
        "checkpoints",
        what,
        "A restore has trials go on from older checkpoints, as copies of others, or fail.",
        "Put the objects back from a copy, if there is one.",
    )
