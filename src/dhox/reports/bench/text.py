"""A bench in words: what the table on the terminal and the page both say. Plain values in, sentences out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dhox.bench.latency_statistics import order_statistic_ranks
from dhox.reports.tables import percent, size_text

MARKS = {  # letter in the tables -> what it means
    "E": "emulated: this device lacks the precision, so its time says nothing",
    "F": "part of the graph fell back to the CPU",
    "G": "CUDA graph asked for, not captured",
    "P": "not proven to be computed in the precision that was asked",
    "T": "clocks were throttled",
    "D": "drift: slower or faster towards the end",
    "U": "unstable: round medians differ much (CV: their coefficient of variation)",
    "W": "warm-up did not become steady",
}
FLAG_MARKS = {"throttled": "T", "drift": "D", "unstable": "U", "not steady": "W"}
MOST_NAMED = 6  # rows that one sentence names


def milliseconds(value: float) -> str:
    """A time in ms with at least three significant digits."""
    if value < 0.01:
        return f"{value:.3g}"
    digits = 4 if value < 0.1 else 3 if value < 10 else 2 if value < 100 else 1
    return f"{value:,.{digits}f}"


def milliseconds_interval(value: float, interval: list[float] | None) -> str:
    """A time in ms with its 95 % interval."""
    if interval is None:
        return milliseconds(value)
    return f"{milliseconds(value)} ({milliseconds(interval[0])}-{milliseconds(interval[1])})"


def factor(value: float) -> str:
    """How many times, with three significant digits."""
    return f"{value:.2f}" if 1 <= value < 10 else f"{value:.3g}"


def count_text(value: float) -> str:
    """A rate or an amount, with at least three significant digits."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}" if value >= 1 else f"{value:.3g}"


def several_runners(content: dict[str, Any]) -> bool:
    """Whether a row must name its runner."""
    return len({row["runner"] for row in content["latency"] + content["accuracy"]["rows"]}) > 1


def pair_name(content: dict[str, Any], subject: str, runner: str) -> str:
    """A subject, with its runner where there are several."""
    return f"{subject} by {runner}" if several_runners(content) else subject


def row_name(content: dict[str, Any], row: dict[str, Any]) -> str:
    """A latency row: subject, batch, scope."""
    return f"{pair_name(content, row['subject'], row['runner'])}, batch {row['batch']}, {row['scope']}"


def named(names: Iterable[str]) -> str:
    """A list of names, each once, the first few of many."""
    unique = list(dict.fromkeys(names))
    rest = len(unique) - MOST_NAMED
    return "; ".join(unique[:MOST_NAMED]) + (f"; and {rest} more" if rest > 0 else "")


def device_sentence(content: dict[str, Any]) -> str:
    """Which machine, in one line."""
    card = content["device"]
    board, gpu = card["jetson"], card.get("gpu")
    parts = [f"{card['host']}: {card['cpu']}, {card['cpu_cores']} cores"]
    if board:
        parts = [f"{card['host']}: {board['model']}", *board_words(board)]
    elif gpu:
        parts.append(gpu["name"] or "GPU")
    return ", ".join(parts)


def board_words(board: dict[str, Any]) -> list[str]:
    """What a Jetson is set to: JetPack, power mode, clocks."""
    mode = board.get("power_mode")
    release = f"JetPack {board['jetpack']}" if board.get("jetpack") else None
    return [
        *([release] if release else []),
        *([f"L4T {board['l4t']}"] if board.get("l4t") else []),
        f"power mode {mode['name']} (id {mode['id']})" if mode else "power mode unknown",
        f"jetson_clocks {board.get('jetson_clocks', 'unknown')}",
    ]


def facts_of(content: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """The runner's facts behind a latency row; empty where there are none."""
    for facts in content["runners"]:
        same = facts["subject"] == row["subject"] and facts["runner"] == row["runner"]
        if same and facts["batch"] in {row["batch"], None}:
            return dict(facts)
    return {}


def other_precision(facts: dict[str, Any]) -> bool:
    """Whether nothing proves that a runner computes in the precision that was asked."""
    return bool(facts) and facts["precision_proven"] != facts["precision_asked"]


def marks(content: dict[str, Any], row: dict[str, Any]) -> str:
    """The letters of MARKS that hold for a latency row."""
    facts = facts_of(content, row)
    flags = {FLAG_MARKS[flag] for flag in row["flags"] if flag in FLAG_MARKS}
    found = {"E"} if row["emulated"] else flags
    found |= {"F"} if facts.get("nodes_off_device") else set()
    found |= {"G"} if facts.get("graph_asked") and not facts.get("graph") else set()
    found |= {"P"} if other_precision(facts) and not row["emulated"] else set()
    return "".join(mark for mark in MARKS if mark in found)


def not_as_asked(content: dict[str, Any]) -> list[str]:
    """What differs from what was asked or hoped for, a sentence per finding; empty where all is well."""
    emulated = {(row["subject"], row["runner"]) for row in content["latency"] if row["emulated"]}
    lines: dict[str, list[str]] = {}
    for facts in content["runners"]:
        who = f"{pair_name(content, facts['subject'], facts['runner'])}, batch {facts['batch']}"
        if facts["batch"] is None:
            who = pair_name(content, facts["subject"], facts["runner"])
        if nodes := facts.get("nodes_off_device"):
            lines.setdefault(f"{nodes} nodes of the graph fell back to the CPU", []).append(who)
        if facts.get("graph_asked") and not facts.get("graph"):
            why = f" ({facts['graph_note']})" if facts.get("graph_note") else ""
            lines.setdefault(f"CUDA graph not captured{why}", []).append(who)
        if other_precision(facts) and (facts["subject"], facts["runner"]) not in emulated:
            computed = facts["precision_proven"] or "something unproven"
            why = f" ({facts['precision_note']})" if facts.get("precision_note") else ""
            found = f"{facts['precision_asked']} was asked, {computed} is computed{why}"
            lines.setdefault(found, []).append(who)
        asked, provider = facts.get("provider_asked"), facts.get("provider")
        if asked and provider and not provider.startswith(asked):
            lines.setdefault(f"{asked} was asked, {provider} was used", []).append(who)
        for note in facts.get("notes", []):
            lines.setdefault(note.rstrip("."), []).append(who)
    for row in content["latency"]:
        if row["emulated"]:
            reason = f"Emulated, no time given: {row['emulated']}"
            lines.setdefault(reason, []).append(pair_name(content, row["subject"], row["runner"]))
    sentences = [f"{line} - {named(who)}." for line, who in lines.items()]
    root = content["device"]["sysroot"]
    recorded = f"Board, clocks and sensors were read below {root}: a recording, not this machine."
    return [recorded] * (root is not None) + sentences + flag_sentences(content)


def flag_sentences(content: dict[str, Any]) -> list[str]:
    """Throttling, drift and instability, with the rows that show it."""
    rows = [row for row in content["latency"] if not row["emulated"]]

    def who(flag: str) -> str:
        found = [row for row in rows if flag in row["flags"]]
        if len(found) == len(rows) > 2:
            return f"all {len(rows)} rows{flag_range(flag, found)}"
        return named(row_name(content, row) + flag_range(flag, [row]) for row in found)

    lines = []
    reasons = (content["conditions"] or {}).get("throttled", [])
    if reasons:
        which = who("throttled") or "no row was timed then"
        lines.append(f"Clocks were throttled during the bench: {', '.join(reasons)} - {which}.")
    if who("drift"):
        lines.append(f"Drift, round medians changed over the bench - {who('drift')}.")
    if who("unstable"):
        lines.append(f"Unstable, round medians differ - {who('unstable')}.")
    if who("not steady"):
        lines.append(f"The warm-up did not become steady - {who('not steady')}.")
    known = {*FLAG_MARKS}
    for flag in sorted({flag for row in rows for flag in row["flags"]} - known):
        lines.append(f"{flag[0].upper()}{flag[1:]} - {who(flag)}.")
    return lines


def flag_range(flag: str, rows: list[dict[str, Any]]) -> str:
    """The numbers behind a flag, in brackets: their lowest and highest where there are several rows."""
    if flag == "drift":
        found = sorted(100 * row["drift"]["change"] for row in rows if row["drift"]["change"] is not None)
        texts, before = [f"{value:+.1f} %" for value in found], ""
    elif flag == "unstable":
        found = sorted(100 * row["round_cv"] for row in rows)
        texts, before = [f"{value:.1f} %" for value in found], "CV "
    else:
        return ""
    if not texts:
        return ""
    return f" ({before}{texts[0]})" if texts[0] == texts[-1] else f" ({before}{texts[0]} to {texts[-1]})"


def told_comparisons(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The comparisons of which both sides were really measured (an emulated time compares with nothing)."""
    emulated = {(row["subject"], row["runner"]) for row in content["latency"] if row["emulated"]}
    return [
        row
        for row in content["comparisons"]
        if tuple(row["reference"]) not in emulated and tuple(row["subject"]) not in emulated
    ]


def comparison_sentence(content: dict[str, Any], row: dict[str, Any]) -> str:
    """ "fp16 is 1.80x (1.70-1.90) as fast as fp32 at batch 1, e2e"."""
    subject, reference = pair_name(content, *row["subject"]), pair_name(content, *row["reference"])
    where = f"at batch {row['batch']}, {row['scope']}"
    if row["verdict"] == "no difference shown":
        return f"No difference shown between {subject} and {reference} {where}: {speed(row)} as fast"
    return f"{subject} is {speed(row)} as fast as {reference} {where}"


def speed(row: dict[str, Any]) -> str:
    """How many times as fast the subject of a comparison is, with its interval."""
    if row["interval"] is None:
        return f"{factor(1 / row['ratio'])}x (too few rounds for an interval)"
    low, high = row["interval"]
    return f"{factor(1 / row['ratio'])}x ({factor(1 / high)}-{factor(1 / low)})"


def energy_sentence(energy: dict[str, Any]) -> str:
    """What measured energy, or why it was not measured."""
    if not energy["rows"]:
        return f"Energy {energy['note'] or 'not measured'}"
    total = " + ".join(energy["total"])
    text = f"Energy by {energy['meter']}"
    if total:
        text += f", {total}" + (" (a sum of rails: an estimate)" if energy["estimate"] else "")
    idle = (energy["idle"] or {}).get("mean_w")
    seconds = min(row["seconds"] for row in energy["rows"])
    text += f"; an uninterrupted window of {seconds:.0f} s or more for each row"
    return text + (f"; {idle:.1f} W when idle, included in mJ/image" if idle is not None else "")


def energy_lines(content: dict[str, Any]) -> list[str]:
    """What the energy figures hold, how wrong they may be, and which are doubtful."""
    energy = content["energy"]
    lines = [f"{energy_sentence(energy).rstrip('.')}."]
    lines += [f"Included: {energy['includes'].rstrip('.')}."] if energy["includes"] else []
    lines += [f"Error of the sensor: {energy['error'].rstrip('.')}."] if energy["error"] else []
    flagged: dict[str, list[str]] = {}
    for row in energy["rows"]:
        for flag in row["flags"]:
            flagged.setdefault(flag, []).append(row_name(content, row))
    return lines + [f"{flag[0].upper()}{flag[1:]} - {named(rows)}." for flag, rows in flagged.items()]


def conditions_sentence(conditions: dict[str, Any] | None) -> str:
    """Clocks and temperatures while latency was measured."""
    if conditions is None or not conditions["sampled"]:
        reason = conditions["note"] if conditions and conditions["note"] else "nothing readable"
        return f"Clocks and temperatures during the measurement: not sampled ({reason})"
    parts = []
    for key, words in (("gpu_clock_mhz", "GPU"), ("memory_clock_mhz", "memory"), ("cpu_clock_mhz", "CPU")):
        if seen := conditions[key]:
            parts.append(f"{words} {seen['median']:,.0f} MHz ({seen['min']:,.0f}-{seen['max']:,.0f})")
    warmest = sorted(conditions["temperature_c"].items(), key=lambda sensor: -sensor[1]["max"])[:3]
    parts += [f"{name} {seen['first']:.0f} to {seen['max']:.0f} °C" for name, seen in warmest]
    locked = {True: "clocks locked", False: "clocks not locked", None: "clocks may move"}[conditions["locked"]]
    throttled = conditions["throttled"]
    parts += [locked, "throttled: " + ", ".join(throttled) if throttled else "no throttling seen"]
    note = f". {conditions['note']}" if conditions["note"] else ""
    return f"Sampled {conditions['sampled']} times while measuring: {', '.join(parts)}{note}"


def accuracy_sentences(content: dict[str, Any]) -> list[str]:
    """Against the reference answers on the same images."""
    lines = []
    for row in content["accuracy"]["rows"]:
        if paired := row["reference"]:
            first = content["accuracy"]["rows"][0]
            lines.append(
                f"{pair_name(content, row['subject'], row['runner'])} gives the label of "
                f"{pair_name(content, first['subject'], first['runner'])} on {100 * paired['agreement']:.1f} % of the "
                f"{row['n']} test images (+{paired['gained']} -{paired['lost']}, McNemar p = {paired['mcnemar_p']:.2g})"
            )
    return lines


def device_ledger_sentence(who: str, row: dict[str, Any], images: str) -> str:
    """One file's row of the export's ledger, on the device of the bench."""
    text = f"Ledger on this device, {who}: {percent(row)} on {row['n']} images of {images}"
    if row["agreement"] is None:
        return text
    return (
        f"{text}; {100 * row['agreement']:.1f} % same label as when exported (+{row['gained']} -{row['lost']}, McNemar "
        f"p = {row['mcnemar_p']:.2g})"
    )


def ledger_notes(content: dict[str, Any]) -> list[str]:
    """Why a ledger was not completed on the device, for each one."""
    several = len(content["ledgers"]) > 1
    lines = [
        f"Ledger{' of ' + ledger['export'] if several else ''} on this device {ledger['note']}"
        for ledger in content["ledgers"]
        if ledger["note"]
    ]
    return lines if content["ledgers"] else ["Ledger on this device not run: models of other tools have none"]


def golden_sentence(golden: dict[str, Any]) -> str:
    """What a golden check found."""
    word = "passed" if golden["passed"] else "FAILED"
    difference = golden["largest_difference"]
    return (
        f"Golden outputs, {golden['subject']} by {golden['runner']}: {word}, {golden['n']} images, largest difference "
        "of a probability " + ("not finite" if difference is None else f"{difference:.1e}")
    )


def cross_check_sentence(content: dict[str, Any], row: dict[str, Any]) -> str:
    """Another tool's numbers beside ours."""
    who = f"{row['with']}, {row_name(content, row)}"
    pairs = f"; geometric means over {row['pairs']} interleaved pairs" if row.get("pairs") else "; medians"
    number = milliseconds if row["unit"] == "ms" else count_text
    notes = [row["note"]] if row.get("note") else []
    notes += [f"LoadGen calls its run invalid: {', '.join(row['reasons'])}"] if row.get("reasons") else []
    notes += ["trtexec's own times are unstable"] if row.get("unstable") else []
    return (
        f"{who}: {number(row['theirs'])} {row['unit']}, ours {number(row['ours'])} {row['unit']}, difference "
        f"{difference_text(row['difference_percent'])}{pairs}" + (f"; {'; '.join(notes)}" if notes else "")
    )


def difference_text(difference: dict[str, Any]) -> str:
    """A difference in %, with its interval where it has one."""
    text = f"{difference['mean']:+.2f} %"
    return text if difference["interval"] is None else "{} ({:+.2f} to {:+.2f})".format(text, *difference["interval"])


def card_lines(content: dict[str, Any]) -> list[str]:
    """The device card in sentences."""
    card = content["device"]
    memory = card.get("memory_bytes")
    lines = [
        f"Machine {card['host']}: {card['cpu']}, {card['cpu_cores']} cores for this process"
        + (f", {size_text(memory)} memory" if memory else "")
        + f"; {card['platform']}."
    ]
    if remote := content.get("remote"):
        lines.append(f"Measured over ssh on {remote['host']}, by {remote['python']} there.")
    if gpu := card.get("gpu"):
        size = f", {size_text(gpu['memory_bytes'])}" if gpu["memory_bytes"] else ""
        capability = f", compute capability {gpu['compute_capability']}" if gpu["compute_capability"] else ""
        driver = f", driver {gpu['driver']}" if gpu["driver"] else ""
        limit = f", power limit {gpu['power_limit_w']:.0f} W" if gpu["power_limit_w"] else ""
        clock = f", highest clock {gpu['highest_clock_mhz']:,.0f} MHz" if gpu["highest_clock_mhz"] else ""
        part = ", a part of it (MIG)" if gpu["mig"] else ""
        lines.append(f"GPU: {gpu['name'] or 'unnamed'}{part}{size}{capability}{driver}{limit}{clock}.")
    if board := card["jetson"]:
        module = f" ({board['module']})" if board.get("module") else ""
        lines.append(f"Board: {board['model']}{module}, {', '.join(board_words(board))}.")
        lines += [f"Power mode: {board['power_mode_note']}."] if board.get("power_mode_note") else []
        for key, words in (("gpu_clock_mhz", "GPU"), ("memory_clock_mhz", "memory")):
            if clock := board.get(key):
                lines.append(f"Clock of the {words} before the bench: {clock_words(clock)}.")
            elif note := board.get(f"{key.removesuffix('_mhz')}_note"):
                lines.append(f"Clock of the {words}: not read, {note}.")
        if found := board.get("tensorrt"):
            missing = f"not importable: {found['why_not']}" if found.get("why_not") else found.get("version")
            lines.append(f"TensorRT of the board: {missing or 'version unknown'}.")
        if temperatures := board.get("temperature_c"):
            degrees = ", ".join(f"{name} {value:.0f} °C" for name, value in temperatures.items())
            lines.append(f"Temperatures before the bench: {degrees}.")
    lines.append(f"{conditions_sentence(content['conditions'])}.")
    if used := content["memory"]:
        peaks = [
            f"{size_text(used[key])} {words}"
            for key, words in (("peak_bytes", "of the machine's memory"), ("process_peak_bytes", "of this process"))
            if used[key] is not None
        ]
        lines.append(f"Peak memory of the bench: {' and '.join(peaks) or 'not readable'}. {used['method']}")
    return lines


def clock_words(clock: dict[str, Any]) -> str:
    """A Jetson's clock: now, its limits, its governor."""
    known = {key: value for key, value in clock.items() if value is not None}
    limits = f" (limits {known['min']:,.0f} to {known['max']:,.0f})" if {"min", "max"} <= known.keys() else ""
    now = f"{known['current']:,.0f} MHz" if "current" in known else "unknown"
    return f"{now}{limits}" + (f", governor {known['governor']}" if "governor" in known else "")


def asked_sentence(content: dict[str, Any]) -> str:
    """What was asked for, in one line."""
    settings = content["settings"]
    return (
        f"Asked: device {content['device_asked']}, {', '.join(settings['runners'])}, batch "
        f"{', '.join(map(str, settings['batches']))}, scopes {', '.join(settings['scopes'])}, "
        f"{settings['duration_s']:g} s and at least {settings['rounds']} rounds for each row, seed {settings['seed']}. "
        f"Timed images: {settings['images']}."
    )


def interval_lines(content: dict[str, Any]) -> list[str]:
    """Which intervals there are beyond those that `method` explains, and which are missing."""
    rows = content["latency"]
    lines = []
    missing = [row for row in rows if row["p99_interval"] is None]
    few = [row for row in missing if order_statistic_ranks(row["effective"]["calls_at_p99"], 0.99) is None]
    for found, why in (
        (len(few), "too few independent calls bound it (a longer --duration has more)"),
        (len(missing) - len(few), "the levels of its rounds differ (locked clocks and an idle machine help)"),
    ):
        if found:
            lines.append(f"p99 has no interval in {found} of {len(rows)} rows: {why}.")
    if content["accuracy"]["rows"]:
        lines.append("Accuracy: Wilson's 95 % interval; two models on the same images: McNemar's exact test.")
    return lines


def stream_notes(content: dict[str, Any]) -> list[str]:
    """Why there is no p99 under so many streams."""
    return [
        f"p99 of {pair_name(content, row['subject'], row['runner'])}, batch {row['batch']}, {row['streams']} streams: "
        f"{row['p99_note']}."
        for row in content["streams"]
        if row.get("p99_note")
    ]


def not_measured(content: dict[str, Any]) -> list[str]:
    """What this bench does not hold, and why."""
    lines = [f"{line.rstrip('.')}." for line in content["not_run"]]
    if not content["energy"]["rows"]:
        lines.append(f"{energy_sentence(content['energy']).rstrip('.')}.")
    if content["accuracy"]["note"]:
        lines.append(f"Accuracy {content['accuracy']['note'].rstrip('.')}.")
    lines += [f"{line.rstrip('.')}." for line in ledger_notes(content)]
    left_out = {"device", "e2e", "pipeline"} - set(content["settings"]["scopes"])
    if left_out:
        lines.append(f"Boundaries not asked for: {', '.join(sorted(left_out))}.")
    if not content["settings"]["streams"]:
        lines.append("Concurrent streams: not asked for.")
    lines += stream_notes(content)
    if not content["cross_checks"]:
        lines.append("Cross-checks by LoadGen or trtexec: not run.")
    return lines
