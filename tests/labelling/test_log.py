"""The label log: what is replayed is what was said, and any cut of it is an earlier state."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refuses

from dhox.errors import DhoxError
from dhox.labelling.entries import Answer, Entry, NewClass, Rename, Undo
from dhox.labelling.log import LabelLog, now, open_log, replay
from dhox.labelling.state import State

IMAGES = [f"unlabelled/{number}.png" for number in range(5)]
CLASSES = ["bag", "dress", 'Hülle \u200b\n"x"']
AT = "2026-01-01T00:00:00.000+00:00"
DATA = Path("/data/pile")

images = st.lists(st.sampled_from(IMAGES), min_size=2, max_size=5, unique=True)
answers = st.builds(
    lambda names, what, label, split: Answer(
        AT, names[:split] if what == "label" else names, what, label if what in {"label", "not"} else None,
        names[split:] if what == "label" else [],
    ),
    images, st.sampled_from(["label", "none", "bad", "skip", "not"]), st.sampled_from(CLASSES), st.integers(1, 5),
)  # fmt: skip
entries = st.lists(
    st.one_of(
        answers, st.builds(NewClass, st.just(AT), st.sampled_from(["new", "newer"])),
        st.builds(Rename, st.just(AT), st.sampled_from(CLASSES), st.sampled_from([*CLASSES, "other"])),
        st.builds(Undo, st.just(AT), st.integers(2, 15)),
    ), max_size=15,
)  # fmt: skip


def seen(state: State) -> object:
    """All that a session asks of a state."""
    each = {image: (state.given(image), state.revision(image), state.is_not(image)) for image in IMAGES}
    undoable = [line for line in state.answers() if state.can_undo(line)]
    return state.line, each, state.labels(), state.counts(), [*state.added], {**state.renamed}, {*state.said}, undoable


def add(log: LabelLog, entry: Entry) -> bool:
    """Whether the log took an entry; one that it refused changes nothing."""
    before, size = seen(log.state), log.path.stat().st_size
    try:
        log.append(entry)
    except ValueError:
        assert (seen(log.state), log.path.stat().st_size) == (before, size)
        return False
    return True


@settings(max_examples=60)
@given(entries)
def test_what_is_replayed_is_what_was_said(said: list[Entry]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "labels.jsonl")
        with open_log(path, DATA, CLASSES) as log:
            for entry in said:
                add(log, entry)
            state = seen(log.state)
        with open_log(path, DATA, []) as again:
            assert (seen(again.state), again.header.classes, again.cut) == (state, CLASSES, 0)


@settings(max_examples=30)
@given(entries, st.data())
def test_any_cut_is_an_earlier_state(said: list[Entry], data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "labels.jsonl")
        states = []
        with open_log(path, DATA, CLASSES) as log:
            states.append((log.path.stat().st_size, seen(log.state)))
            for entry in said:
                if add(log, entry):
                    states.append((log.path.stat().st_size, seen(log.state)))
        content = path.read_bytes()
        cut = data.draw(st.integers(0, len(content)))
        path.write_bytes(content[:cut])
        size, expected = max([states[0], *(one for one in states if one[0] <= cut)])[:2]
        with open_log(path, DATA, CLASSES) as again:
            assert seen(again.state) == expected
            assert path.stat().st_size == size
            assert again.cut == (cut - size if cut >= size else cut)


def test_an_undo_brings_back_what_was_said_before() -> None:
    state = State()
    state.apply(Answer(AT, ["a"], "skip"))
    state.apply(Answer(AT, ["a", "b"], "label", "bag", ["c"]))
    state.apply(NewClass(AT, "hat"))
    assert (state.labels(), state.is_not("c"), state.counts()) == ({"a": "bag", "b": "bag"}, {"bag"}, Counter(bag=2))
    state.apply(Undo(AT, 3))
    assert (state.labels(), state.is_not("c"), state.is_done("a")) == ({}, set(), False)
    assert state.given("a").answer == "skip"  # type: ignore[union-attr]
    assert [state.revision(name) for name in "abcd"] == [5, 5, 5, 0]
    with pytest.raises(ValueError, match="line 3 "):
        state.apply(Undo(AT, 3))


def test_an_answer_on_top_of_another_is_taken_back_first() -> None:
    state = State()
    state.apply(Answer(AT, ["a", "b"], "label", "bag"))
    state.apply(Answer(AT, ["a"], "label", "dress"))
    assert not state.can_undo(2)
    state.apply(Undo(AT, 3))
    assert state.can_undo(2)
    assert state.labels() == {"a": "bag", "b": "bag"}


def test_a_renamed_class_takes_its_labels_with_it() -> None:
    state = State()
    for entry in (
        NewClass(AT, "hat"),
        Answer(AT, ["a"], "label", "hat"),
        Rename(AT, "hat", "cap"),
        Rename(AT, "cap", "bonnet"),
    ):
        state.apply(entry)
    assert (state.labels(), state.added, state.renamed) == (
        {"a": "bonnet"},
        ["bonnet"],
        {"hat": "bonnet", "cap": "bonnet"},
    )
    state.apply(NewClass(AT, "hat"))
    assert (state.added, state.renamed) == (["bonnet", "hat"], {"cap": "bonnet"})


@pytest.mark.parametrize("damage", [b"{}\n", b"\x00\x00\n", b"no json\n", b'{"line":"undo","at":"x","undone":2}\n',
                                    b'{"line":"answer","at":"x","images":["a"],"answer":"label"}\n'])  # fmt: skip
def test_a_damaged_line_is_named_and_nothing_is_changed(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "labels.jsonl"
    with open_log(path, DATA, CLASSES) as log:
        log.append(NewClass(now(), "new"))
        whole = path.read_bytes()
        log.append(Answer(now(), ["a"], "label", "bag"))
    content = whole + damage + path.read_bytes()[len(whole) :]
    path.write_bytes(content)
    with refuses(path, "line 3", at="labelling.log.replay", fix="--import"), open_log(path, DATA, CLASSES):
        pass
    assert path.read_bytes() == content


def test_a_file_that_is_no_log_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    for content in (b"[1, 2]", b'{"image": 1}\n', b"x"):
        path.write_bytes(content)
        with refuses(path, at="labelling.log", fix="--out"), open_log(path, DATA, CLASSES):
            pass
        assert path.read_bytes() == content


def test_a_log_of_other_data(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    with open_log(path, tmp_path / "a", CLASSES):
        pass
    with refuses(tmp_path / "a", tmp_path / "b", at="labelling.log", fix="--out"), open_log(path, tmp_path / "b", []):
        pass
    (tmp_path / "a").mkdir()
    (tmp_path / "c").symlink_to(tmp_path / "a")
    with open_log(path, tmp_path / "c", CLASSES):
        pass


def test_one_process_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    with open_log(path, DATA, CLASSES), refuses(path, at="labelling.log.hold", fix="--out"), open_log(path, DATA, []):
        pass
    with open_log(path, DATA, CLASSES):
        pass


def test_a_full_disk_refuses_the_answer_and_keeps_the_log(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for the full disk: the kernel cuts the write in the middle of a line."""
    import resource
    import signal

    path = tmp_path / "labels.jsonl"
    with open_log(path, DATA, CLASSES) as log:
        log.append(NewClass(now(), "new"))
        before, state = path.read_bytes(), seen(log.state)
        old, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
        try:
            with pytest.raises(DhoxError, match="could not be written"):
                log.append(Answer(now(), ["a"], "label", "bag"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, old)
        assert (path.read_bytes(), seen(log.state)) == (before, state)
        log.append(Answer(now(), ["a"], "label", "bag"))
    assert replay(path, path.read_bytes())[1].labels() == {"a": "bag"}
