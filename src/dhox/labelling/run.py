"""`dhox label`: images of DATA to labels.csv, on a local page."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

from dhox.artefacts.suggestions import Suggestion
from dhox.console import say, say_next
from dhox.data.dataset import Item, Splits, read_dataset, shorten
from dhox.errors import DhoxError, UsageError, dhox_command
from dhox.labelling.classes import all_classes, checked_name, listed_classes, with_used
from dhox.labelling.entries import Rename
from dhox.labelling.importing import import_labels
from dhox.labelling.log import LabelLog, now, open_log
from dhox.labelling.session import Question, Session
from dhox.labelling.table import check_own, log_of, write_table
from dhox.progress import working

WRITE_SECONDS = 1.0  # labels.csv follows the log so soon


def label_images(
    data: Path,
    suggestions: list[Suggestion] | None,
    class_file: Path | None,
    out: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    take_back: Path | None = None,
    renames: tuple[tuple[str, str], ...] = (),
) -> None:
    """Let a person label images of DATA in a browser until the page ends it, or a KeyboardInterrupt, which is raised.

    `suggestions`: what to ask for, in this order; None: every unlabelled image of DATA. `class_file`: the classes;
    None: DATA's own and those of the guesses. `out`: labels.csv; its log lies beside it (.jsonl). `take_back`: a
    manifest whose labels are taken into the log first. `renames`: (old, new) names of classes. Prints the address, and
    at the end what was labelled and the command that follows. Raises DhoxError where nothing is to be labelled, or a
    file, the port or the class list does not fit.
    """
    from dhox.serve.run import listen

    with working("Reading DATA"):
        splits = read_dataset(data)
    items = {item.name: item for item in splits["unlabelled"]}
    listed = listed_classes(data, splits, class_file, suggestions or [])
    questions = asked_images(items, splits, suggestions, listed)
    with open_log(log_of(out), data, listed) as log, listen(host, port) as listener:
        listed = prepare(log, out, items, listed, class_file, take_back, renames)
        questions = with_known_guesses(questions, all_classes(listed, log.state), log)
        session = Session(log, questions, listed, str(data), dhox_command("distill", data, "--labels", out))
        write_table(out, session.labels(), items)
        try:
            with written_soon(out, session, items) as changed:
                serve(session, changed, listener, host, token or secrets.token_urlsafe(24))
        finally:
            say_end(session, data, out, missing=write_table(out, session.labels(), items))


def asked_images(
    items: dict[str, Item], splits: Splits, suggestions: list[Suggestion] | None, listed: list[str]
) -> list[Question]:
    """The images to ask for; of suggestions, those that are there and have no label. Raises DhoxError where none is."""
    if suggestions is None:
        found = [Question(item, ()) for item in items.values()]
        if not found:
            raise DhoxError("DATA has no unlabelled image.", "Put some in its folder unlabelled/, or give them alone.")
        return found
    labelled = {item.name for split in ("train", "val", "test") for item in splits[split]}
    known = [one.name for one in suggestions if one.name in labelled]
    gone = [one.name for one in suggestions if one.name not in labelled and one.name not in items]
    if known:
        say(f"{len(known)} suggested images have a label in DATA: left out ({shorten(known, 3)}).")
    if gone:
        say(f"{len(gone)} suggested images are not in DATA any more: left out ({shorten(gone, 3)}).")
    found = [Question(items[one.name], one.guesses) for one in suggestions if one.name in items]
    if not found:
        raise DhoxError("No suggested image is an unlabelled image of DATA.", "Run dhox suggest again.")
    return found


def with_known_guesses(questions: list[Question], classes: list[str], log: LabelLog) -> list[Question]:
    """The questions with present names of classes, without guesses that are no class."""
    renamed, known = log.state.renamed, {*classes}
    outside = set()
    found = []
    for question in questions:
        guesses = [replace(guess, label=renamed.get(guess.label, guess.label)) for guess in question.guesses]
        outside |= {guess.label for guess in guesses} - known
        found.append(replace(question, guesses=tuple(guess for guess in guesses if guess.label in known)))
    if outside:
        say(f"Guesses that are no class of the list are not shown: {shorten(sorted(outside))}.")
    return found


def prepare(
    log: LabelLog, out: Path, items: dict[str, Item], listed: list[str], class_file: Path | None,
    take_back: Path | None, renames: tuple[tuple[str, str], ...],
) -> list[str]:  # fmt: skip
    """Say what the log held, and take in what the command line gives; the class list with those of the log. Raises
    DhoxError where they contradict each other."""
    if log.cut:
        say(f"{log.path}: a crash had cut its last line ({log.cut} bytes), which no page had confirmed. It is removed.")
    check_own(out, log.state, take_back)
    for old, new in renames:
        rename(log, listed, old, new)
    listed = with_used(listed, log.state, class_file, log.path)
    if log.state.line > 1:
        say(f"{log.path} goes on: {sum(log.state.counts().values())} labels.")
    if take_back is not None:
        took = import_labels(take_back, log, items, listed, out)
        say(
            f"{take_back}: {took.new} labels taken, {took.changed} answers changed, {took.same} known already"
            f"{f', {len(took.unknown)} rows of other images left out' if took.unknown else ''}."
        )
    return listed


def rename(log: LabelLog, listed: list[str], old: str, new: str) -> None:
    """A class of the log under another name. Raises UsageError where the log has no such class."""
    counts = log.state.counts()
    if old not in counts and old not in log.state.added:
        raise UsageError(f"--rename {old}={new}: {log.path} has no class {old}.", "Check the name.")
    classes = all_classes(listed, log.state)
    log.append(Rename(now(), old, new if new in classes else checked_name(new, [one for one in classes if one != old])))
    say(f"{old} is called {new} now ({counts[old]} labels).")


def serve(session: Session, changed: Event, listener: socket.socket, host: str, token: str) -> None:
    """Answer browsers until the page ends the session."""
    from dhox.labelling.app import make_app
    from dhox.serve.guard import own_names
    from dhox.serve.run import address_of, run_server, say_who_may

    say(f"{session.left()} of {len(session.questions)} images to label, {len(session.classes)} classes.")
    say(f"Open {address_of(listener, host, token)}")
    say_who_may(host)
    finished = Event()
    run_server(make_app(session, finished, changed.set, token=token, names=own_names(host)), listener, finished)


@contextmanager
def written_soon(out: Path, session: Session, items: dict[str, Item]) -> Iterator[Event]:
    """Yields what asks for labels.csv to be written again; the last writing, after the block, is the caller's."""
    changed, over = Event(), Event()

    def follow() -> None:
        while not over.is_set():
            changed.wait()
            over.wait(WRITE_SECONDS)
            changed.clear()
            if not over.is_set():
                with suppress(DhoxError):  # a full disk: the log refuses answers itself
                    write_table(out, session.labels(), items)

    writer = Thread(target=follow, daemon=True)
    writer.start()
    try:
        yield changed
    finally:
        over.set()
        changed.set()
        writer.join()


def say_end(session: Session, data: Path, out: Path, missing: int) -> None:
    """What was labelled, and what comes next."""
    counts = session.log.state.counts()
    by_class = ", ".join(f"{label} {counts[label]}" for label in session.classes if counts[label])
    state = session.state()
    parts = [f"{state.none} none of these", f"{state.bad} bad", f"{session.left()} left"]
    if session.gone:
        parts.append(f"{len(session.gone)} not there any more ({shorten(session.gone, 3)})")
    say(f"{session.answered} images were answered now. {out}: {sum(counts.values()) - missing} labels. {by_class}")
    say(f"Beside them: {', '.join(parts)}.")
    if missing:
        say(f"{missing} labelled images are not in DATA any more: the log keeps their labels, {out} leaves them out.")
    if counts:
        say_next("distill", data, "--labels", out)
