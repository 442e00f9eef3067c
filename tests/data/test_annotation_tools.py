"""Exports of Label Studio and CVAT as DATA: labels, what is not certain, and where the images lie."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import write_data
from PIL import Image
from quick_distill import quick
from refusals import refuses

import dhox
from dhox.data.dataset import read_dataset
from dhox.data.leftovers import Leftovers
from dhox.data.whereabouts import paths_meant

STUDIO = "data.label_studio"
FOUND = "data.whereabouts.find_all"


def pictures(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name)


def said(*choices: str, question: str = "choice", **more: Any) -> dict[str, Any]:
    """An annotation as Label Studio's JSON has it; no choice: submitted without an answer."""
    result = [{
        "id": "kX1", "from_name": question, "to_name": "image", "type": "choices", "origin": "manual",
        "value": {"choices": list(choices)},
    }] if choices else []  # fmt: skip
    return {"id": 7, "completed_by": 1, "result": result, "was_cancelled": False, "ground_truth": False, **more}


def task(image: str, *annotations: dict[str, Any], **data: str) -> dict[str, Any]:
    predicted = [{"model_version": "m", "result": said("wolf")["result"]}]
    return {
        "id": 3, "annotations": list(annotations), "file_upload": "n", "drafts": [said("wolf")],
        "predictions": predicted, "data": {"image": image, **data}, "meta": {}, "project": 1,
    }  # fmt: skip


def studio(root: Path, content: object, name: str = "project-1.json") -> Path:
    (root / name).write_text(json.dumps(content))
    return root / name


def labels(data: Path, leftovers: Leftovers | None = None) -> dict[str, str | None]:
    """Image -> label; of train and of what is unlabelled."""
    splits = read_dataset(data, leftovers=leftovers)
    assert not splits["val"] + splits["test"]
    assert all(item.path.is_file() for items in splits.values() for item in items)
    assert all(item.label is not None for item in splits["train"])
    return {item.name: item.label for item in splits["train"] + splits["unlabelled"]}


def test_choices_are_labels_where_people_name_one_class(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(9)]
    pictures(tmp_path, *names)
    tasks = [
        task("0.png", said("cat")),
        task("1.png", said("dog"), said("dog")),
        task("2.png"),
        task("3.png", said()),
        task("4.png", said("cat", was_cancelled=True)),
        task("5.png", said("cat"), said("dog", was_cancelled=True)),
        task("6.png", said("cat"), said("dog")),
        task("7.png", said("cat", "dog")),
        task("8.png", said("cat"), said("dog", ground_truth=True)),
    ]
    left = Leftovers()
    assert labels(studio(tmp_path, tasks), left) == {
        "0.png": "cat", "1.png": "dog", "2.png": None, "3.png": None, "4.png": None, "5.png": "cat", "6.png": None,
        "7.png": None, "8.png": "dog",
    }  # fmt: skip
    assert left == Leftovers(unsure=["6.png", "7.png"])
    (line,) = left.lines()
    assert all(word in line for word in ("2 images", "6.png", "7.png"))
    assert labels(studio(tmp_path, tasks[0])) == {"0.png": "cat"}  # a single task


def test_one_image_in_two_tasks_is_one_image_with_two_opinions(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    tasks = [task("a.png", said("cat")), task("b.png", said("cat")), task("a.png", said("dog")), task("b.png")]
    left = Leftovers()
    assert labels(studio(tmp_path, tasks), left) == {"a.png": None, "b.png": "cat"}
    assert left.unsure == ["a.png"]


def test_splits_and_groups_are_those_of_the_tasks_data(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    tasks = [
        task("a.png", said("cat"), split="Train", group="cam1"), task("b.png", said("dog"), subset="valid"),
        task("c.png", said("dog"), split="unlabeled"),
    ]  # fmt: skip
    splits = read_dataset(studio(tmp_path, tasks))
    assert [(item.name, item.label, item.group) for item in splits["train"]] == [("a.png", "cat", "cam1")]
    assert [(item.name, item.label) for item in splits["val"]] == [("b.png", "dog")]
    assert [(item.name, item.label) for item in splits["unlabelled"]] == [("c.png", None)]
    for made in ([], [said("cat", "dog")]):
        with refuses("b.png", "test", at="data.annotated.annotated_splits"):
            read_dataset(studio(tmp_path, [task("b.png", *made, split="test")]))
    with refuses("b.png", "'holdout'", at="data.annotated.annotated_splits", fix="validation"):
        read_dataset(studio(tmp_path, [task("b.png", said("cat"), split="holdout")]))


# As Label Studio's converter writes them: a row for each annotation, what was skipped left out, several choices as JSON.
ROWS: list[dict[str, Any]] = [
    {"image": "/data/upload/1/0a1b2c3d-a.png", "id": 1, "choice": "cat", "annotator": 1, "annotation_id": 5},
    {"image": "/data/upload/1/0a1b2c3d-b.png", "id": 2, "choice": "dog", "annotator": 1, "annotation_id": 6},
    {"image": "/data/upload/1/0a1b2c3d-b.png", "id": 2, "choice": "dog", "annotator": 2, "annotation_id": 7},
    {"image": "/data/upload/1/0a1b2c3d-c.png", "id": 3, "annotator": None, "annotation_id": None},
    {"image": "/data/upload/1/0a1b2c3d-d.png", "id": 4, "choice": {"choices": ["cat", "dog"]}, "annotator": 1,
     "annotation_id": 8},
    {"image": "/data/upload/1/0a1b2c3d-e.png", "id": 5, "choice": "cat", "annotator": 1, "annotation_id": 9},
    {"image": "/data/upload/1/0a1b2c3d-e.png", "id": 5, "choice": "dog", "annotator": 2, "annotation_id": 10},
]  # fmt: skip
TIMES = {"created_at": "2024-01-01T00:00:00Z", "updated_at": "2024-01-01T00:00:00Z", "lead_time": 1.5}
OF_ROWS = {"a.png": "cat", "b.png": "dog", "c.png": None, "d.png": None, "e.png": None}


@pytest.mark.parametrize("kind", ["json", "csv", "tsv"])
@pytest.mark.parametrize("question", ["choice", "sentiment"])
def test_json_min_csv_and_tsv_say_the_same(tmp_path: Path, kind: str, question: str) -> None:
    pictures(tmp_path, *OF_ROWS)
    rows = [{question if key == "choice" else key: value for key, value in (row | TIMES).items()} for row in ROWS]
    file = tmp_path / f"project-1.{kind}"
    if kind == "json":
        file.write_text(json.dumps(rows))
    else:
        columns = sorted({key for row in rows for key in row})
        with file.open("w", newline="") as out:
            writer = csv.DictWriter(
                out, columns, quoting=csv.QUOTE_NONNUMERIC, delimiter="\t" if kind == "tsv" else ","
            )
            writer.writeheader()
            writer.writerows({k: json.dumps(v) if isinstance(v, dict) else v for k, v in row.items()} for row in rows)
    left = Leftovers()
    assert labels(file, left) == OF_ROWS
    assert left.unsure == ["d.png", "e.png"]


def test_a_row_with_more_data_has_its_choice_by_name_or_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    row = {"image": "a.png", "choice": "cat", "camera": "left", "annotation_id": 1, "annotator": 1, **TIMES}
    assert labels(studio(tmp_path, [row])) == {"a.png": "cat"}
    row["sentiment"] = row.pop("choice")
    with refuses("camera", "sentiment", at=f"{STUDIO}.from_rows", fix="JSON"):
        read_dataset(studio(tmp_path, [row]))


@pytest.mark.parametrize(
    ("reference", "place"),
    [
        ("/data/upload/12/0a1b2c3d-cat_1.png", "media/upload/12/0a1b2c3d-cat_1.png"),
        ("/data/upload/12/0a1b2c3d-cat_1.png", "12/0a1b2c3d-cat_1.png"),
        ("/data/upload/12/0a1b2c3d-cat_1.png", "photos/cat_1.png"),
        ("http://localhost:8080/data/upload/12/0a1b2c3d-cat_1.png", "cat_1.png"),
        ("upload/12/0a1b2c3d-cat_1.png", "upload/12/0a1b2c3d-cat_1.png"),
        ("/data/local-files/?d=shop/cam%201/cat_1.png", "shop/cam 1/cat_1.png"),
        ("/data/local-files/?d=shop/cam1/a+b.png", "shop/cam1/a+b.png"),
        ("/data/local-files/?d=shop\\cam1\\cat_1.png", "cam1/cat_1.png"),
        ("s3://bucket/day 1/cat#1.png", "day 1/cat#1.png"),
        ("s3://bucket/day1/cat_1.png", "elsewhere/cat_1.png"),
        ("https://example.com/a/cat%201.png?width=200", "a/cat 1.png"),
        ("C:\\photos\\cat_1.png", "photos/cat_1.png"),
    ],
)
def test_images_are_found_by_path_or_name(tmp_path: Path, reference: str, place: str) -> None:
    pictures(tmp_path, place)
    assert labels(studio(tmp_path, [task(reference, said("cat"))])) == {place: "cat"}


def test_the_path_decides_where_a_name_is_taken_twice(tmp_path: Path) -> None:
    pictures(tmp_path, "x/cam1/1.png", "x/cam2/1.png", "1.png")
    tasks = [task("s3://b/cam1/1.png", said("cat")), task("s3://b/cam2/1.png", said("dog"))]
    assert labels(studio(tmp_path, tasks)) == {"x/cam1/1.png": "cat", "x/cam2/1.png": "dog"}
    with refuses("s3://b/cam3/1.png", "x/cam1/1.png", "x/cam2/1.png", at=FOUND, fix="Lay"):
        read_dataset(studio(tmp_path, [task("s3://b/cam3/1.png", said("cat"))]))


def test_images_that_are_not_here_or_not_certain_are_named(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    tasks = [task("a.png", said("cat")), task("https://example.com/b.png", said("dog"))]
    with refuses("1 of the 2", "https://example.com/b.png", tmp_path, at=FOUND, fix="name"):
        read_dataset(studio(tmp_path, tasks))
    tasks = [task(f"/data/upload/1/{hash}-a.png", said("cat")) for hash in ("0a1b2c3d", "0a1b2c3e")]
    with refuses("/data/upload/1/0a1b2c3d-a.png", "/data/upload/1/0a1b2c3e-a.png", "a.png", at=FOUND):
        read_dataset(studio(tmp_path, tasks))


def test_what_a_reference_may_mean() -> None:
    assert paths_meant("/data/upload/1/a%20b.png") == ["1/a%20b.png", "1/a b.png"]
    assert paths_meant("http://[x/a.png") == ["http://[x/a.png"]
    assert paths_meant("gs://bucket/k?y/a.png") == ["k?y/a.png", "k?y/a.png"]


BOX = {"from_name": "box", "type": "rectanglelabels", "value": {"x": 1, "y": 1, "rectanglelabels": ["cat"]}}
OF_A_REGION = {"from_name": "c", "type": "choices", "value": {"x": 1, "y": 1, "width": 2, "choices": ["cat"]}}


@pytest.mark.parametrize(
    ("content", "at", "facts"),
    [
        ([task("a.png", said("cat")), task("b.png", said("big", question="size"))], "from_tasks", ["choice, size"]),
        ([task("a.png", {"result": [BOX]})], "from_tasks", ["no choices", "1 rectanglelabels"]),
        ([task("a.png", {"result": [BOX, OF_A_REGION]})], "from_tasks", ["task 3", "region"]),
        ([{**task("a.png"), "data": {"left": "a.png", "right": "b.png"}}], "image_field", ["left, right"]),
        ([{**task("a.png"), "data": {"text": "a"}}], "image_field", ["no image"]),
        ([{"data": {"image": "a.png"}, "annotations": [3]}], "from_tasks", ["annotations"]),
        ([task("a.png", said("cat")), {"data": {"text": "b"}}], "merged", ["no image"]),
        ({"images": [], "annotations": []}, "from_rows", ["project-1.json"]),
        ([], "from_rows", ["project-1.json"]),
        (["a"], "read_json", ["project-1.json"]),
        ([{"image": "a.png", "choice": 3, "annotation_id": 1}], "choices", ["3"]),
    ],
    ids=["two questions", "boxes", "a region", "two images", "no image", "no annotation", "a task without", "COCO",
         "empty", "texts", "a rating"],
)  # fmt: skip
def test_other_json_is_refused(tmp_path: Path, content: object, at: str, facts: list[str]) -> None:
    pictures(tmp_path, "a.png", "b.png")
    with refuses(*facts, at=f"{STUDIO}.{at}"):
        read_dataset(studio(tmp_path, content))


def test_broken_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[{")
    with refuses("x.json", at=f"{STUDIO}.read_json", fix="Label Studio"):
        read_dataset(tmp_path / "x.json")


def cvat(root: Path, images: str, name: str = "annotations.xml") -> Path:
    (root / name).write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta><task><labels><label>'
        f"<name>cat</name><type>tag</type></label></labels></task></meta>\n{images}\n</annotations>\n"
    )
    return root


def image(name: str, *tags: str, **more: str) -> str:
    attributes = "".join(f' {key}="{value}"' for key, value in more.items())
    inside = "".join(
        f'<tag label="{tag}" source="manual"><attribute name="blurred">false</attribute></tag>' for tag in tags
    )
    return f'<image id="0" name="{name}"{attributes} width="8" height="8">{inside}</image>'


def test_tags_of_cvat_are_labels(tmp_path: Path) -> None:
    names = ["a.png", "cam 1/b.png", "c.png", "d.png", "frame_000000.PNG", "e&f.png"]
    pictures(tmp_path / "images", *names, "extra.png")
    box = '<box label="wolf" source="manual" xtl="1" ytl="1" xbr="2" ybr="2" z_order="0"></box>'
    listed = [
        image("a.png", "cat").replace("<tag", box + "<tag", 1), image("cam 1/b.png", "dog"), image("c.png"),
        image("d.png", "cat", "dog"), image("frame_000000", "dog"), image("e&amp;f.png", "K&#228;fer", "K&#228;fer"),
    ]  # fmt: skip
    cvat(tmp_path, "".join(listed))
    left = Leftovers()
    wanted = {
        "images/a.png": "cat", "images/cam 1/b.png": "dog", "images/c.png": None, "images/d.png": None,
        "images/frame_000000.PNG": "dog", "images/e&f.png": "Käfer",
    }  # fmt: skip
    assert labels(tmp_path, left) == wanted
    assert left == Leftovers(unlisted=1, unsure=["images/d.png"])
    assert labels(tmp_path / "annotations.xml") == wanted


def test_subsets_of_a_cvat_project_are_splits(tmp_path: Path) -> None:
    pictures(tmp_path / "images", "default/a.png", "Validation/a.png", "Test/a.png")
    subsets = {"default": "cat", "Validation": "dog", "Test": "cow"}
    cvat(tmp_path, "".join(image("a.png", tag, subset=subset, task_id="1") for subset, tag in subsets.items()))
    splits = read_dataset(tmp_path)
    assert {split: [(item.name, item.label) for item in items] for split, items in splits.items()} == {
        "train": [("images/default/a.png", "cat")], "unlabelled": [], "val": [("images/Validation/a.png", "dog")],
        "test": [("images/Test/a.png", "cow")],
    }  # fmt: skip
    assert len(read_dataset(tmp_path, only="test")["test"]) == 1
    cvat(tmp_path, image("a.png", "cat", subset="Holdout"))
    with refuses("Holdout/a.png", "'Holdout'", at="data.annotated.annotated_splits", fix="validation"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        ("<annotation><image name='a.png'/></annotation>", ["<annotation>"]),
        ("<annotations><track id='0' label='cat'></track></annotations>", ["videos"]),
        ("<annotations><image id='0'/></annotations>", ["name"]),
        ("<annotations></annotations>", ["<image>"]),
        ("<annotations><image name='a.png'>", ["line 1"]),
        ("<annotations><image name='a.png'><box label='cat'/></image></annotations>", ["no tag", "1 box"]),
        ("", ["annotations.xml"]),
    ],
    ids=["VOC", "a video", "no name", "no image", "cut off", "boxes", "empty"],
)
def test_other_xml_is_refused(tmp_path: Path, content: str, facts: list[str]) -> None:
    pictures(tmp_path, "images/a.png")
    (tmp_path / "annotations.xml").write_text(content)
    with refuses(*facts, at="data.cvat"):
        read_dataset(tmp_path)


def test_nothing_in_an_xml_file_is_expanded(tmp_path: Path) -> None:
    """A billion laughs, and an entity that is another file: refused at the DOCTYPE, before anything is read of it."""
    pictures(tmp_path, "images/a.png")
    laughs = '<!ENTITY l0 "ha">' + "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    for entities, name in ((laughs, "&l9;"), ('<!ENTITY x SYSTEM "/etc/passwd">', "&x;")):
        (tmp_path / "annotations.xml").write_text(
            f"<?xml version='1.0'?><!DOCTYPE a [{entities}]><annotations><image name='a.png'>{name}</image></annotations>"
        )
        with refuses("DOCTYPE", at="data.cvat", fix="Export"):
            read_dataset(tmp_path)


def test_cvats_imagenet_export_is_class_folders_with_the_untagged_beside_them(tmp_path: Path) -> None:
    pictures(tmp_path, "cat/cat_1.png", "cat/cat_2.png", "dog/dog_3.png", "no_label/no_label_4.png")
    (tmp_path / "synsets.txt").write_text("cat\ndog\n")
    left = Leftovers()
    assert labels(tmp_path, left) == {
        "cat/cat_1.png": "cat", "cat/cat_2.png": "cat", "dog/dog_3.png": "dog", "no_label/no_label_4.png": None,
    }  # fmt: skip
    assert left.suffixes == {".txt": 1}


@pytest.mark.slow
def test_an_export_trains_and_predicts_as_its_folders_do(line: Path, tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    folders = read_dataset(tmp_path / "data")
    items = [(split, item) for split in ("train", "val", "test") for item in folders[split]]
    tasks = [task(item.name, said(str(item.label)), split=split) for split, item in items]
    file = studio(tmp_path / "data", tasks)
    assert quick(file, method="ce").summary.test == quick(tmp_path / "data", "runs/folders", method="ce").summary.test
    model = dhox.load(line / "runs/tiny/export", device="cpu")  # type: ignore[operator]
    answers = list(model.stream(file))
    assert [(Path(one.picture.name), one.picture.label) for one in answers] == [
        (item.path, item.label) for _, item in items
    ]
    assert all(one.probs is not None for one in answers)
