"""Which students go through the whole line (distilled for an epoch, exported to fp16, measured), and why others do not.

    python benchmarks/families.py ROWS.jsonl [--students shvit_s1:64 ...] [--table] [--write]

Each student starts from random weights (BatchNorm statistics of 16 images), sees 50 images of the demo once, and is
exported with --fp16. Its fp32 and fp16 files are held against torch for batches of 1 and 5, and built by TensorRT-RTX
without a GPU, strongly typed, for batches of 1 to 16. One row is appended for each; students that have one are passed
over. Times are CPU time. --write puts the students that work into the list that dhox ships, by which `dhox distill`
knows before a training that they can be exported, and takes those that do not out of it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import msgspec
import torch
from export_students import build, difference, pixels
from safetensors.torch import save_file

import dhox
from dhox.demo.data import write_image_folder
from dhox.distill.options import Student as StudentOptions
from dhox.distill.students.create import create_student
from dhox.distill.students.student import load_student, parameters_m, unshared
from dhox.errors import DhoxError
from dhox.export.graphs.graph import Deployable, folded_head, head_arrays
from dhox.export.graphs.known_students import LIST_FILE, KnownStudent, known_students
from dhox.export.untrained import calibrate
from dhox.system.machine import cpu_model

T = TypeVar("T")
PER_CLASS = {"train": 3, "val": 1, "test": 1}  # images of each of the demo's ten classes
CLASSES = list("abcdefghij")
STUDENTS = (
    # convolutional
    "resnet18:64", "resnext50_32x4d:64", "res2net50_14w_8s:64", "vgg11_bn:64", "densenet121:64", "dla34:64",
    "hrnet_w18_small:64", "selecsls42b:64", "regnety_002:64", "repvgg_a0:64", "nfnet_l0:64", "eca_nfnet_l0:64",
    "hgnetv2_b0:64", "mobilenetv2_100:64", "mobilenetv3_large_100:64", "mobilenetv4_conv_small:64", "mnasnet_small:64",
    "hardcorenas_a:64", "fbnetv3_b:64", "mixnet_s:64", "rexnet_100:64", "lcnet_050:64", "tinynet_e:64",
    "ghostnet_100:64", "ghostnetv2_100:64", "ghostnetv3_050:64", "repghostnet_050:64", "tf_efficientnet_lite0:64",
    "efficientnet_b0:64", "tf_efficientnetv2_b0:64", "test_efficientnet_gn:64", "mobileone_s0:128", "repvit_m1:64",
    "starnet_s1:64", "fasternet_t0:64", "rdnet_tiny:64", "convnext_atto:64", "convnextv2_atto:64",
    "inception_next_atto:64", "mambaout_femto:64", "poolformerv2_s12:64", "cpubone_nano:64",
    # with attention
    "efficientvit_b0:64", "efficientvit_m0:224", "fastvit_t8:64", "edgenext_xx_small:64", "mobilevit_xxs:64",
    "mobilevitv2_050:64", "mobilenetv4_hybrid_medium:64", "efficientformer_l1:224", "efficientformerv2_s0:224",
    "levit_128s:224", "shvit_s1:64", "swiftformer_xs:224", "tiny_vit_5m_224:224", "csatv2:64", "halonet26t:64",
    "halonet26t:256", "lambda_resnet26t:64", "botnet26t_256:256", "caformer_s18:64", "coatnet_nano_rw_224:224",
    "maxvit_pico_rw_256:256", "gcvit_xxtiny:224", "davit_tiny:64",
    # transformers
    "vit_tiny_patch16_224:64", "deit_tiny_distilled_patch16_224:64", "vit_small_patch14_dinov2:70",
    "vit_small_patch16_dinov3:64", "vit_dwee_patch16_reg1_gap_256:64", "eva02_tiny_patch14_224:56",
    "naflexvit_base_patch16_gap:64", "pit_ti_224:224", "xcit_nano_12_p16_224:64", "coat_lite_tiny:224",
    "pvt_v2_b0:64", "twins_svt_small:64", "crossvit_tiny_240:240", "cait_xxs24_224:224", "mixer_s32_224:224",
    "hiera_tiny_224:224", "swin_tiny_patch4_window7_224:224", "swinv2_tiny_window8_256:256",
    # often taken, at their own size
    "resnet18:224", "resnet10t:176", "resnet50:224", "mobilenetv4_conv_small:224", "mobilenetv3_large_100:224",
    "efficientnet_b0:224", "convnext_atto:224", "vit_tiny_patch16_224:224",
    # of the demo and the documents
    "test_resnet:28", "test_resnet:32", "test_resnet:160", "test_vit:32", "resnet10t:32",
)  # fmt: skip


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """One student: how far it came, why not further, CPU seconds of each stage, and largest differences to torch."""

    student: str
    parameters_m: float | None = None
    works: bool = False
    stage: str = ""
    reason: str = ""
    seconds: dict[str, float] = {}
    fp32: float | None = None
    fp16: float | None = None


class Stages:
    """The stages of one student as they pass: the current one, and the CPU seconds of each."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.now = ""

    def __call__(self, stage: str, work: Callable[[], T]) -> T:
        """What `work` gives, timed."""
        self.now, start = stage, time.process_time()
        try:
            return work()
        finally:
            self.seconds[stage] = round(time.process_time() - start, 1)


def through_the_line(student: str, data: Path, folder: Path) -> Row:
    """Distil, export, hold against torch, build and bench one student NAME:PIXELS, as far as it comes."""
    name, _, size = student.rpartition(":")
    options: dict[str, Any] = {"student": name, "image_size": int(size)}
    stages, parameters, found = Stages(), None, {}
    try:
        weights = folder / "weights.safetensors"
        parameters = stages(
            "create", lambda: random_weights(StudentOptions(**options, student_weights="none"), weights)
        )
        stages("distil", lambda: dhox.distill(
            data, folder / "run", **options, student_weights=str(weights), teacher=f"local-dir:{data / 'teacher'}",
            epochs=1, batch_labelled=6, batch_unlabelled=24, views=2, device="cpu", cache=data / "cache", workers=0,
        ))  # fmt: skip
        result = stages("export", lambda: dhox.export(folder / "run", fp16=True))
        files = {entry.precision: (result.export / entry.file).read_bytes() for entry in result.manifest.artefacts}
        module = as_trained(folder / "run", result)
        found = {precision: difference(content, module, int(size)) for precision, content in files.items()}
        for content in files.values():
            stages("build", lambda content=content: build(content))
        stages("bench", lambda: dhox.bench(
            result.export, device="cpu", batch="1", scope="device", duration=0.2, energy=0, out=folder / "bench"
        ))  # fmt: skip
    except (Exception, SystemExit) as err:
        kind = "" if isinstance(err, DhoxError | SystemExit) else f"{type(err).__name__}: "
        reason = f"{kind}{' '.join(str(err).split())}"[:400]
        return Row(student, parameters, False, stages.now, reason, stages.seconds, **found)
    return Row(student, parameters, True, "", "", stages.seconds, **found)


def random_weights(options: StudentOptions, path: Path) -> float:
    """Write the weights of a random student that BatchNorm knows 16 images of; millions of its parameters."""
    torch.manual_seed(0)
    student, spec, preprocessing = create_student(
        options, CLASSES, two_heads=True, prompts=CLASSES, templates=["{}"], device=torch.device("cpu")
    )
    calibrate(student, pixels(16, spec.image_size), preprocessing)
    save_file(unshared({k: v.contiguous() for k, v in student.backbone.state_dict().items()}), path)
    return round(parameters_m(student.backbone), 1)


def as_trained(run: Path, result: Any) -> Deployable:
    """The trained student as torch computes it, folded as its export is."""
    manifest = result.manifest
    student = load_student(run, manifest.student)
    head = folded_head(head_arrays(student), manifest.fold)
    return Deployable(student.backbone, head, manifest.preprocessing, "uint8-nhwc").eval()


def fifty_images(folder: Path) -> Path:
    """A few images of the demo as an image folder, its teacher beside them."""
    write_image_folder(folder)
    for split, count in PER_CLASS.items():
        for of_class in (folder / split).iterdir():
            for path in sorted(of_class.iterdir())[count:]:
                path.unlink()
    return folder


def table(rows: list[Row]) -> str:
    """The rows as markdown."""
    lines = ["| student | pixels | parameters (M) | line | fp32, fp16 = torch | export (CPU s) |", f"|{' --- |' * 6}"]
    for row in rows:
        name, _, size = row.student.rpartition(":")
        state = "works" if row.works else f"refused ({row.stage}): {row.reason}"
        close = ", ".join(f"{value:.0e}" for value in (row.fp32, row.fp16) if value is not None)
        seconds = row.seconds.get("export", "")
        lines.append(f"| {name} | {size} | {row.parameters_m or ''} | {state} | {close} | {seconds} |")
    return "\n".join([*lines, "", f"{sum(row.works for row in rows)} of {len(rows)} work. {cpu_model()}."])


def read_rows(path: Path) -> list[Row]:
    """The rows so far."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [msgspec.json.decode(line, type=Row) for line in lines]


def write_known(rows: list[Row]) -> None:
    """The shipped list with what works of these rows; of students without a row it keeps what it had."""
    measured = {row.student for row in rows}
    kept = [one for one in known_students() if f"{one.name}:{one.pixels}" not in measured]
    for row in rows:
        name, _, size = row.student.rpartition(":")
        if row.works and row.parameters_m is not None:
            kept.append(KnownStudent(name, int(size), row.parameters_m))
    lines = ",\n".join(f"  {msgspec.json.encode(one).decode()}" for one in sorted(kept))
    LIST_FILE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="JSON lines: read first, then appended to")
    parser.add_argument("--students", nargs="*", default=STUDENTS, help="timm models with their pixels, NAME:PIXELS")
    parser.add_argument("--table", action="store_true", help="only print the table of the rows there are")
    parser.add_argument("--write", action="store_true", help="write what works into the list that dhox ships")
    options = parser.parse_args()
    done = {row.student for row in read_rows(options.rows)}
    todo = [] if options.table else [student for student in options.students if student not in done]
    with TemporaryDirectory() as data:
        for student in todo:
            images = fifty_images(Path(data, "images"))
            with TemporaryDirectory() as folder:
                row = through_the_line(student, images, Path(folder))
            with options.rows.open("ab") as file:
                file.write(msgspec.json.encode(row) + b"\n")
            print(msgspec.json.encode(row).decode(), flush=True)
    rows = read_rows(options.rows)
    if options.write:
        write_known(rows)
    print(table(rows))


if __name__ == "__main__":
    main()
