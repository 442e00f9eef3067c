"""The cache command. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dhox.cli.common import quiet_training_libraries
from dhox.cli.interrupts import on_interrupt, typed
from dhox.distill.small_options import CacheOptions
from dhox.errors import DhoxError, UsageError, dhox_command
from dhox.options.command import examples, with_options

EXAMPLES = examples(
    "dhox cache photos --views 8 --packed-size 320",
    "dhox cache --verify runs/cache",
    "dhox cache --repair runs/cache",
)


@with_options
def cache(
    data: Annotated[Path | None, typer.Argument(help="DATA, as for distill: embed its images.", show_default=False)] = None,
    cache: Annotated[Path, typer.Option(help="Where the caches are kept.")] = Path("runs/cache"),
    info: Annotated[Path | None, typer.Option(help="List the caches at or below a directory.", show_default=False)] = None,
    verify: Annotated[Path | None, typer.Option(help="Compare every checksum at or below a directory.", show_default=False)] = None,
    repair: Annotated[Path | None, typer.Option(help="Drop the damaged files at or below a directory.", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, and stop.")] = False,
    options: CacheOptions = CacheOptions(),
) -> None:  # fmt: skip
    """Compute a teacher cache ahead of training, or look after the caches that are there."""
    if sum(value is not None for value in (data, info, verify, repair)) != 1:
        raise UsageError(
            "dhox cache does one thing at a time.",
            "Give one of: DATA (to fill), --info DIR, --verify DIR, --repair DIR.",
        )
    if data is not None:
        from dhox.data.dataset import check_exists

        check_exists(data)
    quiet_training_libraries()
    from dhox.distill.processes import leave, told_of_lost_processes
    from dhox.distill.teachers.cache_upkeep import entries, fill, repair_all
    from dhox.reports.pages.training import caches_page, plan_page
    from dhox.reports.terminal import show

    if data is not None and dry_run:
        from dhox.distill.dry_run import plan_cache

        show(plan_page(plan_cache(data, cache, options)))
        return
    if data is not None:
        with on_interrupt(lambda: kept(cache)), told_of_lost_processes():
            found = fill(data, cache, options)
            leave()
    elif repair is not None:
        with on_interrupt(lambda: f"What was repaired is whole. To run it again: {typed()}"):
            found = repair_all(repair)
    else:
        found = entries(info or verify or Path(), checksums=verify is not None)
    show(caches_page(found))
    place = info or verify or repair or cache
    damaged = sum(len(entry.damaged) for entry in found)
    if damaged:
        raise DhoxError(
            f"{damaged} cache files are damaged or missing.",
            f"`{dhox_command('cache', '--repair', place)}` drops them; the next training computes their images again.",
        )


def kept(root: Path) -> str:
    """What an interrupted filling leaves: whole files of rows."""
    from dhox.distill.images.shards import row_files

    kept = (
        f"What was embedded is kept in {root}" if any(map(row_files, root.glob("*/"))) else "Nothing was embedded yet"
    )
    return f"{kept}; run it again for the rest: {typed()}"
