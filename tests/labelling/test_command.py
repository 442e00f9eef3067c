"""The installed `dhox label`: start, end, labels.csv, what a kill leaves, and what it refuses."""

from __future__ import annotations

import csv
import http.client
import json
import os
import random
import shlex
import signal
import socket
import time
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest
from label_pile import CLASSES, write_pile
from loopback import call
from PIL import Image
from serving import TOKEN, Server, serving, started

import dhox.demo
from dhox.cli.main import main
from dhox.data.dataset import read_dataset
from dhox.labelling.log import replay

COUNT = 12


@pytest.fixture
def pile(tmp_path: Path) -> Path:
    write_pile(tmp_path / "pile", COUNT)
    return Path("pile")


def ask(server: Server, method: str, path: str, **content: Any) -> Any:
    status, _, body = server.request(method, path, json.dumps({"tab": "t", **content}).encode() if content else None)
    assert status in {200, 204}, body
    return json.loads(body) if body else None


def label(server: Server, *labels: str | None) -> None:
    """Answer the next images: a label each, or None for a skip."""
    for one in labels:
        (coming,) = ask(server, "GET", "/next?tab=t&ahead=1")["coming"]
        images = [{"number": coming["number"], "revision": coming["revision"]}]
        said = {"answer": "skip"} if one is None else {"answer": "label", "label": one}
        ask(server, "POST", "/answer", images=images, **said)


def rows(path: str = "labels.csv") -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def table(path: str = "labels.csv") -> dict[str, str]:
    return {row["name"]: row["label"] for row in rows(path)}


def stopped(server: Server) -> tuple[str, str]:
    """What the command says when it is stopped."""
    server.process.send_signal(signal.SIGINT)
    return server.process.communicate(timeout=60)


def test_labels_are_a_manifest_that_says_what_was_answered(pile: Path) -> None:
    with serving(pile, "--suggestions", pile / "suggestions.csv", command="label") as server:
        assert f"{COUNT} of {COUNT} images to label, {len(CLASSES)} classes." in server.said
        label(server, "bag", None, "dress", "bag")
        out, error = stopped(server)
    assert rows() == [
        {"path": f"pile/unlabelled/{number:03d}.png", "label": name, "split": "train", "group": "", "name": f"unlabelled/{number:03d}.png"}
        for number, name in ((0, "bag"), (2, "dress"), (3, "bag"))
    ]  # fmt: skip
    items = read_dataset(Path("labels.csv"))["train"]
    assert {(item.name, item.label, item.path.is_file()) for item in items} == {
        (row["name"], row["label"], True) for row in rows()
    }
    assert "4 images were answered now. labels.csv: 3 labels. bag 2, dress 1" in out
    assert "9 left" in out
    (following,) = [line for line in out.splitlines() if line.startswith("Next: ")]
    assert shlex.split(following.removeprefix("Next: ")) == ["dhox", "distill", "pile", "--labels", "labels.csv"]
    assert "Interrupted. What was answered is kept. To go on: dhox label pile" in error


def test_the_page_ends_it_and_the_next_one_goes_on(pile: Path) -> None:
    Path("a b").mkdir()
    words = (pile, "--suggestions", pile / "suggestions.csv", "--out", "a b/mine.csv")
    server = started(*words, command="label")
    label(server, "bag", None)
    ask(server, "POST", "/end", end=True)
    out, error = server.process.communicate(timeout=60)
    assert (server.process.returncode, error) == (0, "")
    assert "Next: dhox distill pile --labels 'a b/mine.csv'" in out
    assert rows("a b/mine.csv")[0]["path"] == str(Path("pile/unlabelled/000.png").absolute())
    with serving(*words, command="label") as server:
        assert any("mine.jsonl goes on: 1 labels" in line for line in server.said)
        assert f"{COUNT - 1} of {COUNT} images to label, {len(CLASSES)} classes." in server.said
        assert ask(server, "GET", "/next?tab=t&ahead=20")["coming"][-1]["again"]
    assert table("a b/mine.csv") == {"unlabelled/000.png": "bag"}


def test_labels_appear_while_it_runs(pile: Path) -> None:
    with serving(pile, "--suggestions", pile / "suggestions.csv", command="label") as server:
        label(server, "bag")
        deadline = time.monotonic() + 60
        while not table():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert table() == {"unlabelled/000.png": "bag"}


def killed_while_answering(pile: Path, moment: float, log: Path) -> tuple[dict[str, str], int]:
    """Answers that a server has acknowledged until SIGKILL ended it, and how many bytes the next start cut off."""
    server = started(pile, "--suggestions", pile / "suggestions.csv", command="label")
    timer = Timer(moment, server.process.kill)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    acknowledged: dict[str, str] = {}
    generator = random.Random(moment)

    def post(path: str, content: Any) -> Any:
        connection.request("POST", path, json.dumps(content), {"Authorization": f"Bearer {TOKEN}"})
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, body
        return json.loads(body)

    coming = ask(server, "GET", "/next?tab=t&ahead=5")["coming"]
    timer.start()
    try:
        while coming:
            images = [
                {"number": one["number"], "revision": one["revision"]} for one in coming[: generator.randint(1, 3)]
            ]
            names = [one["name"] for one in coming[: len(images)]]
            chosen = generator.choice(CLASSES)
            said = post("/answer", {"tab": "t", "images": images, "answer": "label", "label": chosen, "ahead": 5})
            acknowledged |= dict.fromkeys(names, chosen)
            coming = said["coming"]
            if generator.random() < 0.3:
                coming = post("/undo", {"tab": "t", "ahead": 5})["coming"]
                acknowledged = {name: one for name, one in acknowledged.items() if name not in names}
    except (OSError, http.client.HTTPException):
        pass
    server.process.wait(60)
    timer.join()
    assert server.process.returncode == -signal.SIGKILL
    content = log.read_bytes()
    return acknowledged, len(content) - content.rfind(b"\n") - 1


@pytest.mark.parametrize("kills", [5, pytest.param(30, marks=pytest.mark.slow)])
def test_a_kill_loses_no_answer_that_was_acknowledged(tmp_path: Path, kills: int) -> None:
    """One log through all kills; the last request may be in the log without an acknowledgement."""
    write_pile(tmp_path / "pile", 600)
    generator, log = random.Random(kills), Path("labels.jsonl")
    expected: dict[str, str] = {}
    acknowledged = 0
    for kill in range(kills):
        before = log.read_bytes().count(b"\n") if kill else 1
        new, _ = killed_while_answering(Path("pile"), generator.uniform(0, 0.25), log)
        labels = replay(log, log.read_bytes()[: log.read_bytes().rfind(b"\n") + 1])[1].labels()
        expected |= new
        unsure = {name for name in expected.keys() ^ labels.keys() if name in new or name not in expected}
        assert len(unsure) <= 3  # the images of one request
        assert {name: labels[name] for name in expected if name in labels} == {
            name: label for name, label in expected.items() if name in labels
        }
        assert not {*expected} - {*labels} - unsure
        expected = labels
        acknowledged += len(new)
        assert log.read_bytes().count(b"\n") >= before
    assert acknowledged > kills
    with serving(Path("pile"), command="label"):
        pass
    assert table() == expected


def test_a_line_that_a_crash_cut_is_removed_and_said(pile: Path) -> None:
    with serving(pile, "--classes", classes_file(), command="label") as server:
        label(server, "bag", "dress")
    with open("labels.jsonl", "ab") as log:
        log.write(b'{"line":"answer","at":"2026-01-01T00:00:00')
    with serving(pile, "--classes", "classes.txt", command="label") as server:
        assert any("a crash had cut its last line" in line for line in server.said)
        label(server, "sandal")
    assert table() == {"unlabelled/000.png": "bag", "unlabelled/001.png": "dress", "unlabelled/002.png": "sandal"}


def classes_file(*names: str) -> str:
    Path("classes.txt").write_text("\n".join(names or CLASSES))
    return "classes.txt"


def test_a_second_server_on_the_same_log_and_a_port_in_use(pile: Path) -> None:
    words = ("label", pile, "--classes", classes_file(), "--port")
    with serving(pile, "--classes", "classes.txt", command="label") as server:
        second = call(*words, 0)
        assert (second.returncode, "labels.jsonl is being written by another dhox label" in second.stderr) == (1, True)
        label(server, "bag")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = call(*words, taken.getsockname()[1])
        assert (done.returncode, "is in use" in done.stderr) == (1, True)
    assert table() == {"unlabelled/000.png": "bag"}


def test_a_renamed_class_is_asked_about(pile: Path) -> None:
    with serving(pile, "--classes", classes_file(), command="label") as server:
        label(server, "bag", "bag", "dress")
        ask(server, "POST", "/class", name="hat")
        label(server, "hat")
    classes_file("handbag", "dress")
    refused = call("label", pile, "--classes", "classes.txt", "--port", 0)
    assert refused.returncode == 1
    assert "2 labels of 'bag', which is no class of classes.txt." in " ".join(refused.stderr.split())
    assert "--rename OLD=NEW" in refused.stderr
    wrong = call("label", pile, "--classes", "classes.txt", "--rename", "purse=handbag", "--port", 0)
    assert (wrong.returncode, "has no class purse" in wrong.stderr) == (2, True)
    with serving(pile, "--classes", "classes.txt", "--rename", "bag=handbag", command="label") as server:
        assert "bag is called handbag now (2 labels)." in server.said
        assert [one["label"] for one in ask(server, "GET", "/state")["classes"]] == ["handbag", "dress", "hat"]
    assert [*table().values()] == ["handbag", "handbag", "dress", "hat"]


def test_import_takes_a_manifest_back_by_name_and_by_path(pile: Path) -> None:
    (pile / "unlabelled/011.png").unlink()
    Path("there").mkdir()
    Path("there/old.csv").write_text(
        "path,label,name\nx.png,bag,unlabelled/000.png\n../pile/unlabelled/001.png,hat,\n../pile/unlabelled/011.png,bag,\n"
        "../pile/unlabelled/002.png,,\n"
    )
    words = (pile, "--classes", classes_file(), "--import", "there/old.csv")
    with serving(*words, command="label") as server:
        assert (
            "there/old.csv: 2 labels taken, 0 answers changed, 0 known already, 1 rows of other images left out."
            in server.said
        )
        assert [one["label"] for one in ask(server, "GET", "/state")["classes"]] == [*CLASSES, "hat"]
        label(server, "sandal")
    assert table() == {"unlabelled/000.png": "bag", "unlabelled/001.png": "hat", "unlabelled/002.png": "sandal"}
    Path("labels.csv").write_text(Path("labels.csv").read_text().replace("sandal", "dress"))
    edited = Path("labels.csv").read_bytes()
    refused = call("label", pile, "--classes", "classes.txt", "--port", 0)
    assert (refused.returncode, "unlabelled/002.png" in refused.stderr, "--import labels.csv" in refused.stderr) == (
        1,
        True,
        True,
    )
    assert Path("labels.csv").read_bytes() == edited
    with serving(pile, "--classes", "classes.txt", "--import", "labels.csv", command="label") as server:
        assert "labels.csv: 0 labels taken, 1 answers changed, 2 known already." in server.said
        ask(server, "POST", "/undo", ahead=1)
    assert table() == {"unlabelled/000.png": "bag", "unlabelled/001.png": "hat", "unlabelled/002.png": "sandal"}


def test_a_table_of_somebody_else_is_not_overwritten(pile: Path) -> None:
    Path("labels.csv").write_text("path,label\nother.png,cat\npile/unlabelled/000.png,bag\n")
    before = Path("labels.csv").read_bytes()
    for more in ((), ("--import", "labels.csv")):
        refused = call("label", pile, "--classes", classes_file(), "--port", 0, *more)
        assert (refused.returncode, "other.png" in refused.stderr) == (1, True), refused.stderr
        assert Path("labels.csv").read_bytes() == before


def test_images_that_are_gone_since_the_suggestion_and_since_the_label(pile: Path) -> None:
    words = (pile, "--suggestions", pile / "suggestions.csv")
    with serving(*words, command="label") as server:
        label(server, "bag", "dress")
        (pile / "unlabelled/000.png").unlink()
    assert table() == {"unlabelled/001.png": "dress"}
    (pile / "unlabelled/002.png").unlink()
    with serving(*words, command="label") as server:
        assert (
            "2 suggested images are not in DATA any more: left out (unlabelled/000.png, unlabelled/002.png)."
            in server.said
        )
        out, _ = stopped(server)
    assert "1 labelled images are not in DATA any more: the log keeps their labels, labels.csv leaves them out." in out
    assert read_dataset(Path("labels.csv"))["train"][0].name == "unlabelled/001.png"


def test_images_of_an_archive_are_named_by_their_names(tmp_path: Path) -> None:
    import io
    import tarfile

    (tmp_path / "shards/unlabelled").mkdir(parents=True)
    with np.load(Path(dhox.demo.__file__).parent / "fashion_mnist.npz") as archive:
        pixels = archive["train_images"][:3]
    with tarfile.open("shards/unlabelled/0.tar", "w") as shard:
        for number, image in enumerate(pixels):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            info = tarfile.TarInfo(f"{number}.png")
            info.size = file.tell()
            file.seek(0)
            shard.addfile(info, file)
    with serving("shards", "--classes", classes_file(), command="label") as server:
        status, headers, body = server.request("GET", "/image?number=0&large=0")
        assert (status, headers["content-type"], body[:2]) == (200, "image/jpeg", b"\xff\xd8")
        label(server, "bag")
    name = read_dataset(Path("shards"))["unlabelled"][0].name
    assert rows() == [{"path": name, "label": "bag", "split": "train", "group": "", "name": name}]


def test_classes_and_groups_that_data_has(tmp_path: Path) -> None:
    truth = write_pile(tmp_path / "pile", 4)
    lines = [
        "path,label,group",
        f"pile/unlabelled/000.png,{truth[0]},g1",
        "pile/unlabelled/001.png,,cam 2",
        "pile/unlabelled/002.png,,g3",
    ]
    Path("data.csv").write_text("\n".join(lines))
    with serving("data.csv", command="label") as server:
        assert [one["label"] for one in ask(server, "GET", "/state")["classes"]] == [truth[0]]
        assert "2 of 2 images to label, 1 classes." in server.said
        label(server, truth[0])
    assert (rows()[0]["group"], rows()[0]["name"]) == ("cam 2", "pile/unlabelled/001.png")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nowhere"], 2, "nowhere does not exist"),
        (["pile", "--suggestions", "no.csv"], 2, "no.csv does not exist"),
        (["pile", "--suggestions", "other.csv"], 1, "no file of suggestions"),
        (["pile", "--suggestions", "gone.csv"], 1, "No suggested image is an unlabelled image of DATA"),
        (["pile", "--out", "labels.txt"], 2, "labels.txt"),
        (["pile", "--out", "no/labels.csv"], 1, "no/labels.jsonl"),
        (["pile", "--import", "no.csv"], 2, "no.csv does not exist"),
        (["pile", "--import", "other.csv"], 1, "No row of other.csv"),
        (["pile", "--import", "spelled.csv", "--classes", "classes.txt"], 1, "bag is a class already"),
        (["pile", "--import", "twice.csv"], 1, "both bag and dress"),
        (["pile", "--rename", "bag"], 2, "--rename bag names no two classes"),
        (["pile", "--token", "short"], 2, "--token"),
        (["pile", "--classes", "no.txt"], 2, "no.txt does not exist"),
        (["labelled.csv"], 1, "DATA has no unlabelled image"),
    ],
)  # fmt: skip
def test_what_it_refuses(
    pile: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    classes_file()
    Path("other.csv").write_text("path,label\nelsewhere.png,bag\n")
    Path("spelled.csv").write_text("path,label\npile/unlabelled/000.png,Bag\n")
    Path("twice.csv").write_text("path,label,name\na,bag,unlabelled/000.png\npile/unlabelled/000.png,dress,\n")
    Path("labelled.csv").write_text("path,label\npile/unlabelled/000.png,bag\n")
    head = (pile / "suggestions.csv").read_text().splitlines()[0]
    Path("gone.csv").write_text(f"{head}\nx.png,,unlabelled,,x.png,bag,0.5,,,,\n")
    with pytest.raises(SystemExit, match=str(code)):
        main(["label", *words, "--port", "0"])
    error = capsys.readouterr().err
    assert said in " ".join(error.split())
    assert not Path("labels.csv").exists()


def test_a_folder_that_cannot_be_written_is_told(pile: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    Path("shut").mkdir(mode=0o500)
    done = call("label", pile, "--out", "shut/labels.csv", "--port", 0)
    assert (done.returncode, "shut/labels.jsonl" in done.stderr) == (1, True)
