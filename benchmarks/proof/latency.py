"""How fast are exported students, by which runtime, and what does dhox's runner add to it?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
from PIL import Image
from runner_overhead import onnxruntime_pairs

from dhox.artefacts.bench_latency import Key
from dhox.bench.bench_models import BenchModel, open_models
from dhox.bench.latency_statistics import latency_statistics, paired_ratio
from dhox.bench.rounds import FEWEST_ROUNDS, Cell, Timed, measure
from dhox.bench.runners.runner import open_runner
from dhox.data.images import model_input
from dhox.demo.data import HERE
from dhox.distill.options import Student as StudentOptions
from dhox.export.options import ExportOptions
from dhox.export.run import export
from dhox.export.untrained import untrained_student, write_untrained_run
from dhox.options.declare import build
from dhox.progress import quietly
from proof.record import Aim, Row

STUDENTS = (("resnet18", 224), ("tf_efficientnet_lite0", 224), ("vit_base_patch16_224", 224))
TINY = (("test_resnet", 28), ("test_vit", 32))
RUNNERS = ("torch", "torch:graph", "onnxruntime", "onnxruntime:graph")
SECONDS = 2.0  # of timed calls per cell
ADDED = Aim("at most", 1.01)
AGREEMENT = 64  # real images


def rows(tiny: bool) -> Iterator[Row]:
    """fp16 on CUDA at batch 1 and 32; a rehearsal: fp32 on the CPU, without graphs."""
    precision, device = ("fp32", "cpu") if tiny else ("fp16", "cuda")
    runners = [name for name in RUNNERS if not (tiny and name.endswith(":graph"))]
    for student, size in TINY if tiny else STUDENTS:
        with tempfile.TemporaryDirectory() as folder:
            model = exported(student, size, Path(folder), precision)
            yield from agreement(model, device)
            for batch in (1, 4) if tiny else (1, 32):
                yield from latencies(model, runners, device, batch, 0.2 if tiny else SECONDS)


def exported(student: str, size: int, folder: Path, precision: str) -> BenchModel:
    """An untrained student's model file, and beside it the run that the runner `torch` takes."""
    options = StudentOptions(student=student, student_weights="none", image_size=size)
    run = write_untrained_run(untrained_student(options, 10, two_heads=False), folder / "run")
    with quietly():
        export(run, folder / "export", build(ExportOptions, fp16=precision == "fp16"))
    (model,) = open_models([folder / "export"], precisions=(precision,))
    return model


def student_of(model: BenchModel) -> str:
    """Its name."""
    assert model.manifest is not None
    return model.manifest.student.name


def latencies(model: BenchModel, runners: list[str], device: str, batch: int, seconds: float) -> Iterator[Row]:
    """Every runner with its input on the device, and ONNX Runtime's own call beside dhox's, all interleaved."""
    side = model.preprocessing.crop
    pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    samples: dict[Key, Timed] = {}
    with ExitStack() as stack:
        opened = {name: stack.enter_context(closing(open_runner(model, name, device))) for name in runners}
        cells = []
        for name, session in opened.items():
            session.bind(pixels)
            cells.append(Cell(Key(model.name, name, batch, "device"), session.run))
            if name.startswith("onnxruntime"):
                cells.append(
                    Cell(Key(model.name, f"{name}, bare", batch, "device"), onnxruntime_pairs(session, pixels)[0].bare)
                )
        failed = measure(
            cells, seconds, FEWEST_ROUNDS, np.random.default_rng(0), samples, f"{student_of(model)}, batch {batch}"
        )
        facts = {name: session.facts for name, session in opened.items()}
    subject = f"{student_of(model)}, batch {batch}"
    for key, timed in samples.items():
        if key in failed:
            yield Row(subject=subject, what=key.runner, value=float("nan"), unit="ms", note=failed[key])
            continue
        found = latency_statistics(timed.rounds, batch, np.array(timed.started_s))
        note = "" if key.runner not in facts else facts[key.runner].graph_note or ""
        yield Row(
            subject=subject, what=key.runner, value=found.latency_ms.p50, unit="ms", interval=found.p50_interval,
            interval_of="95 %", note=note,
        )  # fmt: skip
    for name, of in facts.items():
        if name.endswith(":graph"):
            yield Row(subject=subject, what=f"{name}: captured", value=float(of.graph), aim=Aim("at least", 1))
        if of.nodes_off_device is not None and device != "cpu":
            yield Row(
                subject=subject, what=f"{name}: nodes off the device", value=of.nodes_off_device, aim=Aim("at most", 0)
            )
        bare = samples.get(Key(model.name, f"{name}, bare", batch, "device"))
        if bare is not None:
            ratio = paired_ratio(bare.rounds, samples[Key(model.name, name, batch, "device")].rounds)
            yield Row(
                subject=subject, what=f"{name}: dhox / bare call", value=ratio.ratio, interval=ratio.interval,
                interval_of="95 %", aim=ADDED,
            )  # fmt: skip


def agreement(model: BenchModel, device: str) -> Iterator[Row]:
    """How far the exported file is from torch in its own precision, on real images."""
    images = real_pixels(model)
    with (
        closing(open_runner(model, "onnxruntime", device)) as ours,
        closing(open_runner(model, "torch", device)) as torch,
    ):
        found, expected = ours.infer(images), torch.infer(images)
    subject = f"{student_of(model)}, {len(images)} real images"
    yield Row(
        subject=subject, what=f"largest difference of {model.precision} probabilities to torch's",
        value=float(np.abs(found - expected).max()), aim=Aim("at most", 1e-4 if model.precision == "fp32" else 2e-2),
    )  # fmt: skip
    same = float((found.argmax(1) == expected.argmax(1)).mean())
    yield Row(subject=subject, what="same answer as torch", value=100 * same, unit="%")


def real_pixels(model: BenchModel) -> np.ndarray:
    """Images of the embedded data as the model takes them, uint8 [N, side, side, 3]."""
    with np.load(HERE / "fashion_mnist.npz", allow_pickle=False) as archive:
        images = archive["test_images"][:AGREEMENT]
    return np.stack([model_input(Image.fromarray(image).convert("RGB"), model.preprocessing) for image in images])
