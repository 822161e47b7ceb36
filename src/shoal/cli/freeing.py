"""``shoal gc``: frees the disk space of experiments that are not running.

What is deleted by default is what nobody could ever read: see :meth:`shoal.cli.files.Files.leftovers`; the next restore
would delete it, too. Checkpoints that the journal counts on are only deleted where the user says which to keep. Each of
them is first told to the journal, as one that is gone, and deleted then: so results name it no more, a restore goes on
from others, and nobody takes it for damage of the disk.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import EXIT_WRONG, UsageProblem
from .finding import complete_experiment, experiment_folders, name_for
from .output import OneFormat, OneFormatOption, Table, print_json, print_table, say, warn
from .sizes import size_text

if TYPE_CHECKING:
    from .files import Item
    from .removal import Found

__all__ = ["gc"]

_NOT_IN_STORAGE = (
    "What killed processes leave there, the next run deletes; 'shoal gc' frees the disks of this machine. To keep "
    "fewer checkpoints, go on with CheckpointConfig(num_to_keep=...); to delete the experiment, use the storage's own "
    "tools."
)


def gc(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="EXPERIMENT|FOLDER",
            show_default=False,
            autocompletion=complete_experiment,
            help="An experiment, or a folder with some; those that are running are left alone.",
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only show what would be deleted.")] = False,
    keep_best: Annotated[
        int | None,
        typer.Option(
            "--keep-best",
            min=0,
            metavar="N",
            show_default=False,
            help="Delete checkpoints, but keep those with the N best scores of the experiment.",
        ),
    ] = None,
    keep_newest: Annotated[
        int | None,
        typer.Option(
            "--keep-newest",
            min=0,
            metavar="N",
            show_default=False,
            help="Delete checkpoints, but keep the N newest of each trial.",
        ),
    ] = None,
    keep_lineage: Annotated[
        bool,
        typer.Option(
            "--keep-lineage", help="Delete checkpoints, but keep those through which the best trial's weights came."
        ),
    ] = False,
    give_up_restore: Annotated[
        bool,
        typer.Option(
            "--give-up-restore",
            help="Delete also what 'shoal resume' would go on from; only of experiments that have ended.",
        ),
    ] = False,
    lost_records: Annotated[
        bool,
        typer.Option(
            "--lost-records",
            help="Delete also whole checkpoints that the journal has lost its records of; see 'shoal doctor'.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    format: OneFormatOption = OneFormat.table,
) -> None:
    """Free disk space: delete what killed processes have left, and checkpoints if asked to.

    Without --keep-..., only leftovers go: half-written checkpoints, and those that count no more. With it, all other
    checkpoints go that no --keep-... names and that a restore does not need. What is deleted is written in the
    journal. Nothing outside of the experiments' folders is touched, and no link is followed. The exit code is 1 where
    something could not be deleted, or the one experiment is running or damaged.
    """
    from ..display.table import count_text
    from .removal import Keep, delete, look

    keep = Keep(keep_best, keep_newest, keep_lineage, not give_up_restore, not lost_records)
    if give_up_restore and keep.all:
        raise UsageProblem(
            "--give-up-restore deletes checkpoints, so say which to keep: --keep-best 1, or --keep-best 0 to keep none."
        )
    given, single = experiment_folders(folder, _NOT_IN_STORAGE)
    folders = [each for each in given if isinstance(each, Path)]
    if not folders:
        raise UsageProblem(f"There are no experiments in {folder}.")
    found = [look(each, keep) for each in folders]
    refused = [each for each in found if each.why_not is not None]
    for each in found:
        if each.lost:
            warn(
                f"{each.folder.name}: {count_text(each.lost, 'checkpoint')} left alone, because the journal has lost "
                f"its records of them. See: shoal doctor {name_for(each.folder)}. To delete them: --lost-records."
            )
    if single and refused:
        if refused[0].usage:
            raise UsageProblem(str(refused[0].why_not))
        warn(f"error: {refused[0].why_not}")
        raise typer.Exit(EXIT_WRONG)
    if format is OneFormat.table:
        _show(found, single)
    deleted: list[Found] = []
    if not dry_run and any(each.items for each in found):
        if not yes and not _agreed(found):
            warn("nothing was deleted.")
            return
        deleted = [delete(each, keep) for each in found if each.items]
        if format is OneFormat.table:
            count, size = _total(deleted)
            say(("freed ", "bold green"), f"{size}: {count} deleted.")
    if format is OneFormat.json:
        print_json(_values(found, deleted, dry_run))
    failed = [each.why_not for each in deleted if each.why_not is not None]
    for text in failed:
        warn(f"error: {text}")
    if failed:
        raise typer.Exit(EXIT_WRONG)


def _agreed(found: Sequence[Found]) -> bool:
    """Ask whether to delete; Ctrl-C ends the command."""
    count, size = _total(found)
    if not sys.stdin.isatty():
        raise UsageProblem("There is nobody to be asked whether to delete. Give --yes, or --dry-run to only look.")
    print(f"Delete {count} ({size})? [y/N]: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().casefold() in ("y", "yes")


def _total(found: Sequence[Found]) -> tuple[str, str]:
    count = sum(len(each.items) for each in found)
    return f"{count} {'entry' if count == 1 else 'entries'}", size_text(sum(each.size for each in found))


def _show(found: Sequence[Found], single: bool) -> None:
    from ..display.text import Column

    for each in found:
        if each.why_not is not None:
            warn(f"{each.folder.name}: left alone: {each.why_not}")
    rows = [(each, item) for each in found for item in each.items]
    if not rows:
        say("nothing to free.")
        return
    print_table(
        Table(
            [
                Column("size", [size_text(item.size) for _, item in rows], right=True),
                Column("what", [item.why for _, item in rows]),
                Column(
                    "path",
                    [_relative(each, item, single) for each, item in rows],
                    short=[f".../{item.path.name}" for _, item in rows],
                ),
            ]
        )
    )
    count, size = _total(found)
    say(f"{size} in {count}.")


def _relative(found: Found, item: Item, single: bool) -> str:
    return str(item.path.relative_to(found.folder if single else found.folder.parent))


def _values(found: Sequence[Found], deleted: Sequence[Found], dry_run: bool) -> list[dict[str, Any]]:
    shown = found if dry_run else [*deleted, *(each for each in found if not each.items)]
    return [
        {
            "experiment": each.folder.name,
            "path": str(each.folder),
            "deleted": not dry_run and bool(each.items),
            "bytes": each.size,
            "left_alone": each.why_not,
            "lost_records": each.lost,
            "items": [
                {"path": str(item.path), "bytes": item.size, "what": item.why, "checkpoint": item.checkpoint}
                for item in each.items
            ],
        }
        for each in shown
    ]
