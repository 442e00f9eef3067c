"""What `dhox bench` prints: tables that fit the terminal, and sentences (user text is escaped)."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dhox.console import console, say
from dhox.reports.bench.text import (
    MARKS,
    accuracy_sentences,
    comparison_sentence,
    count_text,
    cross_check_sentence,
    device_ledger_sentence,
    device_sentence,
    energy_lines,
    golden_sentence,
    ledger_notes,
    marks,
    milliseconds,
    milliseconds_interval,
    not_as_asked,
    pair_name,
    several_runners,
    speed,
    stream_notes,
    told_comparisons,
)
from dhox.reports.tables import percent

SHORTEST_NAME = 12  # columns; a longer name may break
MOST_SENTENCES = 4  # comparisons; more of them become a table


def print_bench(bench: Path, content: dict[str, Any]) -> None:
    """The bench as one table, then what it compares, what was not as asked, and where the rest is."""
    tell(device_sentence(content))
    if content["status"] == "interrupted":
        tell("Interrupted: this is what was measured until then.")
    if content["latency"]:
        print_latency(content)
    else:
        tell("No latency was measured.")
        print_accuracy(content)
    print_comparisons(content)
    print_streams(content)
    for line in not_as_asked(content):
        tell(line)
    for line in content["not_run"]:
        tell(f"{line.rstrip('.')}.")
    for line in energy_lines(content):
        tell(line)
    if content["accuracy"]["note"]:
        tell(f"Accuracy {content['accuracy']['note']}")
    for line in accuracy_sentences(content):
        tell(f"{line}.")
    for line in ledger_notes(content):
        tell(f"{line.rstrip('.')}.")
    for ledger in content["ledgers"]:
        for row in ledger["rows"]:
            who = pair_name(content, row["subject"], row["runner"])
            tell(f"{device_ledger_sentence(who, row, ledger['images'])}.")
    for golden in content["golden"]:
        tell(f"{golden_sentence(golden)}.")
    for row in content["cross_checks"]:
        tell(f"{cross_check_sentence(content, row).rstrip('.')}.")
    say(f"{bench}/bench.json")
    if content["status"] == "complete" and content["latency"]:
        command = f"dhox compare {shlex.quote(f'{bench}/bench.json')} NEW/bench.json"
        console.print(f"Next: [bold]{escape(command)}[/bold] after a change", soft_wrap=True)


def tell(sentence: str) -> None:
    """A sentence, broken between words where the terminal ends."""
    console.print(escape(sentence))


def plain_table(title: str, wide: bool) -> Table:
    """A table without vertical lines, so that many columns fit; `wide`: two spaces between them, else one."""
    padding = (0, 1 if wide else 0, 0, 0)
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=padding)


def add_names(table: Table, title: str, names: list[str]) -> None:
    """A column of names, which break where they are longer than the terminal affords."""
    longest = max(len(title), *(len(part) for name in names for part in jointed(name).split()))
    table.add_column(title, overflow="fold", min_width=min(longest, SHORTEST_NAME))


def add_numbers(table: Table, *names: str) -> None:
    """Columns whose cells are never broken."""
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)


def print_latency(content: dict[str, Any]) -> None:
    """The main table; where the terminal is too narrow, top-1, then energy, moves to a table of its own."""
    levels = [(both, wide) for both in (("energy", "top-1"), ("energy",), ()) for wide in (True, False)]
    tables = {level: latency_table(content, *level) for level in levels}
    (beside, _), table = next((entry for entry in tables.items() if fits(entry[1])), (levels[-1], tables[levels[-1]]))
    console.print(table)
    used = "".join(marks(content, row) for row in content["latency"])
    for mark, meaning in MARKS.items():
        if mark in used:
            tell(f"{mark}: {meaning}.")
    if "top-1" not in beside:
        print_accuracy(content)
    if "energy" not in beside:
        print_energy(content)


def fits(table: Table) -> bool:
    """Whether a table is at most as wide as the console without breaking a number."""
    widths = [
        column.min_width or max(Text.from_markup(str(cell)).cell_len for cell in (column.header, *column.cells))
        for column in table.columns
    ]
    return sum(widths) + len(widths) * (1 + table.padding[1]) <= console.width


def latency_table(content: dict[str, Any], beside: tuple[str, ...], wide: bool) -> Table:
    """A row per subject, runner, batch and scope; rows that may be compared stand together."""
    energy = {key_of(row): row for row in content["energy"]["rows"] if "energy" in beside}
    correct = {(row["subject"], row["runner"]): row for row in content["accuracy"]["rows"] if "top-1" in beside}
    scopes = content["settings"]["scopes"]
    rows = sorted(content["latency"], key=lambda row: (scopes.index(row["scope"]), row["batch"]))
    runners = several_runners(content)
    title = "Latency per call in ms, median with 95 % interval"
    table = plain_table(title if runners else f"{title}; {rows[0]['runner']}", wide)
    add_names(table, "model", [row["subject"] for row in rows])
    if runners:
        add_names(table, "runner", [row["runner"] for row in rows])
    add_numbers(table, "batch", "scope", "p50", "p99", "images/s")
    if energy:
        add_numbers(table, "mJ/image")
    if correct:
        add_numbers(table, "top-1, %")
    table.add_column("", no_wrap=True)
    before = None
    for row in rows:
        group = (row["scope"], row["batch"])
        if before not in (None, group):
            table.add_section()
        before = group
        times = [
            milliseconds_interval(row["latency_ms"]["p50"], row["p50_interval"]),
            milliseconds(row["latency_ms"]["p99"]),
            count_text(row["images_per_s"]),
        ]
        spent = energy.get(key_of(row))
        right = correct.get((row["subject"], row["runner"]))
        table.add_row(
            escape(jointed(row["subject"])),
            *([escape(jointed(row["runner"]))] if runners else []),
            *[str(row["batch"]), row["scope"]],
            *(["emulated", "-", "-"] if row["emulated"] else times),
            *([count_text(spent["mj_per_image"]) if spent else "-"] if energy else []),
            *([percent(right).replace(" %", "") if right else "-"] if correct else []),
            marks(content, row),
        )
    return table


def jointed(name: str) -> str:
    """A name with places to break before its parts, where it is long."""
    return name.replace("/", " /").replace(":", " :") if len(name) > SHORTEST_NAME else name


def key_of(row: dict[str, Any]) -> tuple[str, str, int, str]:
    """What a row was measured of."""
    return row["subject"], row["runner"], row["batch"], row["scope"]


def print_accuracy(content: dict[str, Any]) -> None:
    """Accuracy where it does not stand beside the latencies."""
    if not content["accuracy"]["rows"]:
        return
    table = plain_table(f"Accuracy on the {content['accuracy']['split']} split", wide=True)
    rows = content["accuracy"]["rows"]
    add_names(table, "model", [row["subject"] for row in rows])
    add_names(table, "runner", [row["runner"] for row in rows])
    add_numbers(table, "top-1, %", "top-5, %", "images")
    for row in rows:
        top5 = "-" if row["top5"] is None else f"{100 * row['top5']:.1f}"
        table.add_row(
            escape(jointed(row["subject"])),
            escape(jointed(row["runner"])),
            percent(row).replace(" %", ""),
            top5,
            str(row["n"]),
        )
    console.print(table)


def print_energy(content: dict[str, Any]) -> None:
    """Energy where it does not stand beside the latencies."""
    rows = content["energy"]["rows"]
    if not rows:
        return
    table = plain_table("Energy", wide=True)
    add_names(table, "model", [pair_name(content, row["subject"], row["runner"]) for row in rows])
    add_numbers(table, "batch", "scope", "W", "mJ/image", "images/J")
    for row in rows:
        rate = row["images_per_joule"]
        table.add_row(
            escape(jointed(pair_name(content, row["subject"], row["runner"]))),
            *[str(row["batch"]), row["scope"], f"{row['mean_w']:.1f}", count_text(row["mj_per_image"])],
            "-" if rate is None else count_text(rate),
        )
    console.print(table)


def print_comparisons(content: dict[str, Any]) -> None:
    """Who is faster: sentences, or a table where there are many and it fits."""
    rows = told_comparisons(content)
    table = comparison_table(content, rows) if len(rows) > MOST_SENTENCES else None
    if table and fits(table):
        console.print(table)
        return
    for row in rows:
        tell(f"{comparison_sentence(content, row)}.")


def comparison_table(content: dict[str, Any], rows: list[dict[str, Any]]) -> Table:
    """A row per pair and batch, a column per scope."""
    scopes = [name for name in content["settings"]["scopes"] if any(row["scope"] == name for row in rows)]
    equal = any(row["verdict"] == "no difference shown" for row in rows)
    title = "How many times as fast, with 95 % interval" + (" (=: no difference shown)" if equal else "")
    table = plain_table(title, wide=True)
    add_names(table, "model", [pair_name(content, *row["subject"]) for row in rows])
    add_names(table, "against", [pair_name(content, *row["reference"]) for row in rows])
    add_numbers(table, "batch", *scopes)
    lines: dict[tuple[str, str, int], dict[str, str]] = {}
    for row in rows:
        pair = pair_name(content, *row["subject"]), pair_name(content, *row["reference"])
        cells = lines.setdefault((*pair, row["batch"]), {})
        cells[row["scope"]] = speed(row) + (" =" if row["verdict"] == "no difference shown" else "")
    for (subject, reference, batch), cells in lines.items():
        speeds = [cells.get(scope, "-") for scope in scopes]
        table.add_row(escape(jointed(subject)), escape(jointed(reference)), str(batch), *speeds)
    return table


def print_streams(content: dict[str, Any]) -> None:
    """Throughput of several callers at once."""
    if not content["streams"]:
        return
    table = plain_table("Throughput of concurrent streams", wide=True)
    add_names(table, "model", [pair_name(content, row["subject"], row["runner"]) for row in content["streams"]])
    add_numbers(table, "batch", "streams", "images/s", "p50, ms", "p99, ms")
    for row in content["streams"]:
        low_high = "" if row["interval"] is None else " ({}-{})".format(*[count_text(end) for end in row["interval"]])
        table.add_row(
            escape(jointed(pair_name(content, row["subject"], row["runner"]))),
            *[str(row["batch"]), str(row["streams"]), count_text(row["images_per_s"]) + low_high],
            *[milliseconds(row["p50_ms"]), "-" if row["p99_ms"] is None else milliseconds(row["p99_ms"])],
        )
    console.print(table)
    for line in stream_notes(content):
        tell(line)
