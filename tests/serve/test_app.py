"""The protocol of `dhox serve`: answers, refusals and metrics, without a socket."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from damage import answer_no_numbers
from PIL import Image
from plain_files import read_json, write_json
from refusals import refuses
from serving import TOKEN
from starlette.testclient import TestClient

import dhox
from dhox.errors import UsageError
from dhox.serve.answers import PredictAnswer, StageTimes, model_answer
from dhox.serve.app import make_app
from dhox.serve.guard import own_names
from dhox.serve.metrics import BUCKETS, Histogram, Metrics, sample
from dhox.serve.models import Asked, asked_models, model_names
from dhox.serve.refusal import RefusedError
from dhox.serve.work import Room, Work

LARGEST = 300_000
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def export(line: Path) -> Path:
    return line / "runs/tiny/export"


@pytest.fixture(scope="module")
def client(export: Path) -> Iterator[TestClient]:
    """fp32 beside fp16."""
    metrics = Metrics()
    work = Work(asked_models([export], ["fp32", "fp16"]), "cpu", False, metrics)
    app = make_app(work, metrics, token=TOKEN, names=own_names("127.0.0.1"), top=3, largest_upload=LARGEST, queue=100)
    with TestClient(app, base_url="http://127.0.0.1:8000", headers=BEARER, raise_server_exceptions=False) as opened:
        yield opened


def answers(response: Any) -> PredictAnswer:
    assert response.status_code == 200, response.text
    return msgspec.json.decode(response.content, type=PredictAnswer)


def odd_files(folder: Path, line: Path) -> list[Path]:
    """The same photograph as files of every kind that decoding treats in its own way."""
    image = Image.open(sorted((line / "data/test/sandal").iterdir())[0]).convert("RGB").resize((90, 61))
    turned = Image.Exif()
    turned[0x0112] = 6
    grey = np.asarray(image.convert("L"), np.uint16)
    image.save(folder / "a.png")
    image.save(folder / "turned.jpg", exif=turned, quality=90)
    image.quantize(16).save(folder / "palette.gif")
    Image.fromarray(grey * 257).save(folder / "16bit.png")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(folder / "alpha.webp", lossless=True)
    return sorted(folder.iterdir())


def test_an_upload_gives_the_bits_that_its_path_gives(
    client: TestClient, export: Path, line: Path, tmp_path: Path
) -> None:
    files = odd_files(tmp_path, line)
    models = {f"tiny {precision}": dhox.load(export, "cpu", precision) for precision in ("fp32", "fp16")}
    form = client.post("/predict?top=4", files=[("file", (path.name, path.read_bytes())) for path in files])
    assert [image.name for image in answers(form).images] == [path.name for path in files]
    for path, image in zip(files, answers(form).images, strict=True):
        (raw,) = answers(client.post("/predict?top=4", content=path.read_bytes())).images
        assert (raw.name, raw.error, image.error) == ("image", None, None)
        for answer in (*raw.answers, *image.answers):
            probs = models[answer.model](path)[0]
            said = {one.name: one.probability for one in answer.top}
            assert [np.float32(said[name]) for name in models[answer.model].classes] == list(probs)
        assert [answer.model for answer in raw.answers] == ["tiny fp32", "tiny fp16"]


def test_top_and_stages(client: TestClient, line: Path) -> None:
    content = next((line / "data/test/bag").iterdir()).read_bytes()
    for asked, expected in (("", 3), ("?top=1", 1), ("?top=4", 4), ("?top=5", 4)):
        (image,) = answers(client.post(f"/predict{asked}", content=content)).images
        for answer in image.answers:
            probabilities = [one.probability for one in answer.top]
            assert len(probabilities) == expected
            assert probabilities == sorted(probabilities, reverse=True)
            assert answer.predicted == answer.top[0].name
            times = answer.latency_ms
            assert min(times.decode, times.model) > 0
            assert times.all >= times.model


def test_below_the_threshold_is_unknown() -> None:
    times, probs = StageTimes(1.0, 1.0, 2.0), np.array([0.25, 0.5, 0.25], np.float32)
    sure, exact, unsure = (model_answer("m", probs, ["a", "b", "c"], limit, 3, times) for limit in (None, 0.5, 0.51))
    assert [(one.predicted, one.unknown) for one in (sure, exact, unsure)] == [("b", False), ("b", False), (None, True)]
    assert [one.name for one in unsure.top] == ["b", "a", "c"]


def test_the_threshold_of_an_export_is_used(own_line: Path) -> None:
    export = own_line / "runs/tiny/export"
    image = next((own_line / "data/test/bag").iterdir())
    manifest = read_json(export / "manifest.json")
    row = {"n": 80, "correct": 40, "accuracy": 0.5, "interval": [0.4, 0.6]}
    reject = {"asked": 0.9, "coverage": 0.9, "coverage_interval": [0.8, 0.95], "answered": row, "all": row, "n": 80, "images": "cross-fitted"}  # fmt: skip
    top = float(dhox.load(export, "cpu")(image).max())
    for threshold, unknown in ((top, False), (float(np.nextafter(np.float32(top), np.float32(1))), True)):
        write_json(export / "manifest.json", manifest | {"reject": reject | {"threshold": threshold}})
        metrics = Metrics()
        work = Work([Asked(export, None)], "cpu", False, metrics)
        app = make_app(work, metrics, token=TOKEN, names=set(), top=1, largest_upload=LARGEST, queue=1)
        with TestClient(app, base_url="http://127.0.0.1", headers=BEARER) as client:
            (said,) = answers(client.post("/predict", content=image.read_bytes())).images[0].answers
            assert said.unknown is unknown
            assert client.get("/models").json()["models"][0]["reject_threshold"] == threshold
            assert f'dhox_unknown_total{{model="tiny fp32"}} {int(unknown)}' in client.get("/metrics").text


def test_a_form_keeps_what_can_be_read(client: TestClient, line: Path) -> None:
    good = next((line / "data/test/bag").iterdir()).read_bytes()
    files = [("a", ("good.png", good)), ("a", ("<b>.png", b"no image")), ("b", ("cut.png", good[: len(good) // 2]))]
    images = answers(client.post("/predict", files=files, data={"note": "a field that is no file"})).images
    assert [len(image.answers) for image in images] == [2, 0, 0]
    assert [image.error is None for image in images] == [True, False, False]
    assert "<b>.png" in str(images[1].error)


BOUNDARY = {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize(
    ("status", "names", "request_"),
    [
        (422, "not an image", {"content": b"no image at all"}),
        (422, "cut.png", {"files": [("a", ("cut.png", b"\x89PNG\r\n\x1a\n"))]}),
        (400, "no image", {"content": b""}),
        (400, "no image", {"headers": BOUNDARY, "content": b"--x--\r\n"}),
        (400, "form", {"headers": {"Content-Type": "multipart/form-data"}, "content": b"--x--\r\n"}),
        (400, "form", {"headers": BOUNDARY, "content": b"--y\r\n\r\n"}),
        (400, "form", {"files": [("a", (f"{i}.png", b"x")) for i in range(65)]}),
        (400, "top=0", {"content": b"x", "params": {"top": "0"}}),
        (400, "top=x", {"content": b"x", "params": {"top": "x"}}),
        (413, "0.3 MB", {"content": bytes(LARGEST + 1)}),
        (413, "0.3 MB", {"content": iter([bytes(LARGEST), b"x"])}),
        (413, "0.3 MB", {"files": [("a", ("a.png", bytes(LARGEST)))]}),
        (401, "token", {"content": b"x", "headers": {"Authorization": "Bearer wrong"}}),
        (401, "token", {"content": b"x", "headers": {"Authorization": f"Basic {TOKEN}"}}),
        (401, "token", {"content": b"x", "headers": {"Authorization": ""}, "params": {"token": TOKEN[:-1]}}),
        (403, "evil.example", {"content": b"x", "headers": {"Host": "evil.example:8000"}}),
        (403, "[::1", {"content": b"x", "headers": {"Host": "[::1"}}),
        (403, "http://evil.example", {"content": b"x", "headers": {"Origin": "http://evil.example"}}),
        (403, "null", {"content": b"x", "headers": {"Origin": "null"}}),
        (403, "http://127.0.0.1:9", {"content": b"x", "headers": {"Origin": "http://127.0.0.1:9"}}),
    ],
)  # fmt: skip
def test_refusals(client: TestClient, status: int, names: str, request_: dict[str, Any]) -> None:
    response = client.post("/predict", **request_)
    assert response.status_code == status, response.text
    said = response.json()
    assert said.keys() == {"error", "fix"}
    assert names in said["error"]
    assert said["fix"]
    assert "Traceback" not in response.text
    assert "default-src 'none'" in response.headers["content-security-policy"]


def test_the_largest_body_is_taken(client: TestClient, line: Path) -> None:
    content = next((line / "data/test/bag").iterdir()).read_bytes()
    padded = content + bytes(LARGEST - len(content))
    assert len(answers(client.post("/predict", content=padded)).images) == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/none", 404), ("GET", "/predict", 405), ("POST", "/", 405), ("GET", "/../pyproject.toml", 404), ("PUT", "/predict", 405)],
)  # fmt: skip
def test_other_paths_and_methods(client: TestClient, method: str, path: str, status: int) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert response.json()["fix"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000", "192.168.1.7", "localhost."]
)
def test_hosts_that_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/models", headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200


def test_the_page_asks_for_nothing_outside(client: TestClient) -> None:
    assert client.get("/", headers={"Authorization": ""}).status_code == 401
    assert client.get("/", headers={"Authorization": ""}, params={"token": TOKEN}).status_code == 200
    parts = {path: client.get(path, headers={"Authorization": ""}) for path in ("/page.css", "/page.js", "/icon.svg")}
    assert {response.status_code for response in parts.values()} == {200}
    for text in [client.get("/").text, *(response.text for response in parts.values())]:
        assert set(re.findall(r"https?://[\w.]+", text)) <= {"http://www.w3.org", "http://127.0.0.1"}
    page = client.get("/")
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]


def test_the_models_are_told(client: TestClient, export: Path) -> None:
    said = client.get("/models").json()
    assert [model["name"] for model in said["models"]] == ["tiny fp32", "tiny fp16"]
    assert [model["file"] for model in said["models"]] == ["model.onnx", "model.fp16.onnx"]
    assert said["models"][0]["path"] == str(export)
    assert (said["models"][0]["note"] is None, said["models"][1]["note"] is None) == (True, False)
    assert said["largest_upload"] == LARGEST


def samples(text: str) -> dict[str, float]:
    """The lines of Prometheus' text format; each must belong to a family with HELP and TYPE before it."""
    families, found = set(), {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            families.add(line.split()[2])
        elif not line.startswith("# HELP "):
            match = re.fullmatch(r'([a-z_]+)(?:\{(?:[a-z]+="(?:[^"\\\n]|\\[\\"n])*",?)+\})? (\S+)', line)
            assert match, line
            assert {match[1], re.sub("_(bucket|sum|count)$", "", match[1])} & families, line
            found[line.rpartition(" ")[0]] = float(match[2])
    return found


def test_metrics_count_what_was_answered(client: TestClient, line: Path) -> None:
    content = next((line / "data/test/bag").iterdir()).read_bytes()
    before = samples(client.get("/metrics").text)
    client.post("/predict", content=content)
    client.post("/predict", content=b"no image")
    client.get("/wp-login.php")
    response = client.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    after = samples(response.text)
    grown = {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key, 0)}
    assert grown['dhox_requests_total{path="/predict",status="200"}'] == 1
    assert grown['dhox_requests_total{path="/predict",status="422"}'] == 1
    assert grown['dhox_requests_total{path="other",status="404"}'] == 1
    assert grown['dhox_images_total{result="answered"}'] == 1
    assert grown['dhox_images_total{result="unreadable"}'] == 1
    assert after["dhox_requests_in_flight"] == 1
    for model in ("tiny fp32", "tiny fp16"):
        for stage in ("decode", "model", "all"):
            labels = f'{{model="{model}",stage="{stage}"'
            assert grown[f"dhox_stage_seconds_count{labels}}}"] == 1
            buckets = [after[f'dhox_stage_seconds_bucket{labels},le="{bound}"}}'] for bound in (*BUCKETS, "+Inf")]
            assert buckets == sorted(buckets)
            assert buckets[-1] == after[f"dhox_stage_seconds_count{labels}}}"]


def test_a_bound_belongs_to_its_bucket_and_labels_are_escaped() -> None:
    histogram = Histogram()
    for seconds in (0.0005, 0.000501, 10.0, 10.1):
        histogram.observe(seconds)
    lines = list(histogram.lines("x", {}))
    assert lines[0] == 'x_bucket{le="0.0005"} 1'
    assert lines[1] == 'x_bucket{le="0.001"} 2'
    assert lines[-4:-2] == ['x_bucket{le="10.0"} 3', 'x_bucket{le="+Inf"} 4']
    assert lines[-1] == "x_count 4"
    assert sample("x", {"a": 'b"c\\d\ne'}, 1) == 'x{a="b\\"c\\\\d\\ne"} 1'


def test_room_is_given_back() -> None:
    room = Room(2, 10)  # 80 bytes
    with room.place(60) as resize:
        with pytest.raises(RefusedError) as refused, room.place(21):
            pass
        assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})
        resize(1)
        with room.place(79), pytest.raises(RefusedError), room.place(0):
            pass
    with pytest.raises(ZeroDivisionError), room.place(80):
        raise ZeroDivisionError
    with room.place(80):
        pass


def test_models_are_named_by_what_tells_them_apart() -> None:
    def names(*exports: str) -> list[str]:
        return model_names([(Path(export), precision) for export in exports for precision in ("fp32", "int8")])

    assert names("/x/runs/photos/export") == ["photos fp32", "photos int8"]
    assert names("/x/old/export", "/x/new/export")[::2] == ["old fp32", "new fp32"]
    assert names("/old/runs/a/export", "/new/runs/a/export")[::2] == ["old/runs/a fp32", "new/runs/a fp32"]
    assert names("/x/a-retuned") == ["a-retuned fp32", "a-retuned int8"]


def test_exports_and_files_of_exports(export: Path) -> None:
    assert asked_models([export / "model.fp16.onnx"], []) == [Asked(export, "fp16")]
    assert asked_models([export], ["fp32", "fp16"]) == [Asked(export, "fp32"), Asked(export, "fp16")]
    with refuses("heads.npz", at="serve.models", fix=("model.onnx", "model.fp16.onnx")):
        asked_models([export / "heads.npz"], [])
    with refuses("nowhere", at="models.export_directory", kind=UsageError):
        asked_models([Path("nowhere")], [])
    with refuses("2 times", at="serve.models", kind=UsageError):
        asked_models([export, export / "../export"], [])


def test_a_model_that_cannot_answer_is_refused_before_anybody_asks(own_line: Path) -> None:
    export = own_line / "runs/tiny/export"
    answer_no_numbers(export)
    with refuses("model.onnx", at="models.classifier", fix="dhox verify"):
        Work([Asked(export, "fp32")], "cpu", False, Metrics())
