"""The options of `dhox export`: those of the export itself, and those of what is made from it for a target."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from dhox.artefacts.frame import Camera, Colour, FrameFormat, Range
from dhox.errors import UsageError
from dhox.options.declare import AtLeastOne, Group, Natural, NotNegative, Option, Options, fields_of, flat

Precision = Literal["fp32", "fp16", "int8"]


class Folding(Group):
    """Folding the heads"""

    fold_heads: Annotated[
        bool, Option("Fold both heads into one linear layer, or keep them.", flags="--fold-heads/--keep-heads")
    ] = True
    fold_rule: Annotated[
        Literal["auto", "linear", "exact"],
        Option("linear (C rows), exact (2C rows), or auto: linear where validation shows it is not worse."),
    ] = "auto"
    fold_tolerance: Annotated[NotNegative, Option("Points of accuracy that auto may risk (one-sided 95 % bound).")] = (
        1.0
    )


class Precisions(Group):
    """Precisions"""

    fp16: Annotated[bool, Option("Also write model.fp16.onnx, and make it the default.", common=True)] = False
    int8: Annotated[
        bool,
        Option(
            "Also write model.int8.onnx, calibrated on unlabelled images, and make it the default. Layers that cost "
            "too much accuracy stay fp16.", common=True,
        ),
    ] = False  # fmt: skip
    int8_ranges: Annotated[
        Literal["minmax", "percentile"],
        Option("With --int8: the largest values seen, or their 99.999 % percentile (where a few values lie far out)."),
    ] = "minmax"
    quantize_head: Annotated[bool, Option("int8 for the last linear layer too.")] = False

    @property
    def wanted(self) -> list[Precision]:
        """What to write besides fp32."""
        asked: list[tuple[Precision, bool]] = [("fp16", self.fp16), ("int8", self.int8)]
        return [name for name, wanted in asked if wanted]


class Checks(Group):
    """Checks"""

    max_accuracy_drop: Annotated[
        NotNegative | None,
        Option(
            "Points of validation accuracy that a file may lose to the student in torch, by the one-sided 95 % bound; "
            "beyond: exit 3.",
            shown="report only",
        ),
    ] = None
    reject_coverage: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | None,
        Option(
            "Share of validation images to be answered; below that threshold predict says unknown. In (0, 1].",
            shown="answer all",
        ),
    ] = None


class Files(Group):
    """Input and output"""

    input: Annotated[
        Literal["uint8-nhwc", "float-nchw", "float-nchw-255"],
        Option(
            "What the graph takes: pixels as decoded, the normalised tensor, or planar pixels from 0 to 255 "
            "(DeepStream)."
        ),
    ] = "uint8-nhwc"
    emit_embedding: Annotated[
        bool,
        Option("Give the graphs a second output, the features `embedding` [B, d], by which drift knows unlike images."),
    ] = False
    rehearse_drift: Annotated[
        bool,
        Option("Answer altered validation images, so that drift estimates accuracy better; takes a while."),
    ] = False
    data: Annotated[
        Path | None, Option("Where the run's images are now.", shown="where the run found them", common=True)
    ] = None
    overwrite: Annotated[bool, Option("Replace an output directory of the same kind.", common=True)] = False


class ExportOptions(Options):
    """The options of an export."""

    folding: Folding = Folding()
    precisions: Precisions = Precisions()
    checks: Checks = Checks()
    files: Files = Files()


class Engines(Group):
    """TensorRT engines"""

    tensorrt: Annotated[bool, Option("Build TensorRT engines for this machine into EXPORT/engines.", common=True)] = (
        False
    )
    precision: Annotated[
        tuple[Precision, ...],
        Option("Model to build an engine or make a camera file of; repeatable.", shown="the export's default"),
    ] = ()
    batch: Annotated[str, Option("Batch sizes, smallest, usual, largest.", metavar="MIN:OPT:MAX")] = "1:8:16"
    workspace: Annotated[
        AtLeastOne | None, Option("Memory limit of the builder in MiB, for small boards.", shown="TensorRT's")
    ] = None
    version_compatible: Annotated[bool, Option("Runs with later TensorRT versions, somewhat slower.")] = False
    hardware_compatible: Annotated[bool, Option("Runs on other GPUs too, somewhat slower.")] = False
    dla: Annotated[
        Natural | None,
        Option("DLA core to build for; layers that it cannot run fall back to the GPU and are listed.", shown="none"),
    ] = None

    @property
    def batches(self) -> tuple[int, int, int]:
        """Smallest, usual and largest batch. Raises UsageError where --batch is no such text."""
        found = re.fullmatch(r"(\d+)(?::(\d+):(\d+))?", self.batch.strip())
        smallest, usual, largest = [int(number or found[1]) for number in found.groups()] if found else (0, 0, 0)
        if not 1 <= smallest <= usual <= largest:
            raise UsageError(
                f"--batch {self.batch} is not MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX.",
                "Write for example --batch 1:8:16, or --batch 8 for that size alone.",
            )
        return smallest, usual, largest


class Cameras(Group):
    """Camera files"""

    camera: Annotated[
        tuple[str, ...],
        Option(
            "Add a model that takes the raw frames of a camera of this size: crop, resize and colours in the graph; "
            "repeatable, one file each.", shown="none", metavar="WIDTHxHEIGHT", common=True,
        ),
    ] = ()  # fmt: skip
    camera_format: Annotated[
        FrameFormat, Option("How the camera lays out a frame.", metavar="rgb|bgr|nv12|yuyv|gray")
    ] = "rgb"
    camera_colour: Annotated[
        Colour, Option("nv12 and yuyv: how colours became luma and chroma.", metavar="bt601|bt709")
    ] = "bt601"
    camera_range: Annotated[
        Range, Option("nv12 and yuyv: luma from 16 to 235, or from 0 to 255.", metavar="limited|full")
    ] = "limited"
    rotate: Annotated[
        Literal["0", "90", "180", "270"],
        Option("Degrees clockwise that make the picture upright.", metavar="0|90|180|270"),
    ] = "0"
    roi: Annotated[
        str | None,
        Option("The part of the upright picture to classify.", shown="all of it", metavar="X,Y,WIDTH,HEIGHT"),
    ] = None

    @property
    def cameras(self) -> list[Camera]:
        """One camera per size. Raises UsageError for what is no size or region, or contradicts itself."""
        return [self._camera(size) for size in dict.fromkeys(self.camera)]

    def _camera(self, size: str) -> Camera:
        from msgspec import ValidationError, convert

        width, height = _numbers("--camera", size, r"(\d+)x(\d+)", "WIDTHxHEIGHT, such as 1920x1080")
        yuv = self.camera_format in ("nv12", "yuyv")
        found: dict[str, object] = {
            "width": width, "height": height, "format": self.camera_format, "rotate": int(self.rotate),
            "colour": self.camera_colour if yuv else None, "range": self.camera_range if yuv else None,
        }  # fmt: skip
        if self.roi is not None:
            sides = _numbers("--roi", self.roi, r"(\d+),(\d+),(\d+),(\d+)", "X,Y,WIDTH,HEIGHT, such as 420,0,1080,1080")
            found["roi"] = dict(zip(("x", "y", "width", "height"), sides, strict=True))
        try:
            return convert(found, Camera)
        except ValidationError as err:
            raise UsageError(f"--camera {size}: {err}.", "Give what the camera delivers.") from err


def _numbers(option: str, text: str, pattern: str, form: str) -> list[int]:
    """The numbers of a text. Raises UsageError where it has another form."""
    found = re.fullmatch(pattern, text.strip())
    if not found:
        raise UsageError(f"{option} {text} is not {form}.", "Write it so.")
    return [int(number) for number in found.groups()]


class Integrations(Group):
    """Other programs"""

    emit: Annotated[
        tuple[Literal["deepstream", "triton"], ...],
        Option("Also write the configuration of another program; repeatable.", shown="none"),
    ] = ()


class TargetOptions(Options):
    """The options of what is made from an export."""

    engines: Engines = Engines()
    cameras: Cameras = Cameras()
    integrations: Integrations = Integrations()


def _flags(group: str) -> set[str]:
    """The flags of a group of a target's options."""
    return {field.flag for field in fields_of(TargetOptions).values() if field.group == group}


def changed(options: Options) -> list[str]:
    """The flags whose values are not the defaults."""
    fields = fields_of(type(options))
    return [fields[name].flag for name, value in flat(options).items() if value != fields[name].default]


def check(options: ExportOptions) -> None:
    """Raise UsageError for options that contradict each other."""
    folding, precisions = options.folding, options.precisions
    if not folding.fold_heads and folding.fold_rule != "auto":
        raise UsageError("--keep-heads folds nothing, so --fold-rule has no meaning.", "Leave one of them out.")
    if not precisions.int8 and (precisions.quantize_head or precisions.int8_ranges != "minmax"):
        raise UsageError("--quantize-head and --int8-ranges are for --int8.", "Add it.")


def check_target(target: TargetOptions) -> None:
    """Raise UsageError for options of engines and cameras that contradict each other, or that belong to none."""
    engines, given = target.engines, changed(target)
    of_engines = _flags("engines") - ({"--precision"} if target.cameras.camera else set())
    for needed, own in (("--tensorrt", of_engines), ("--camera", _flags("cameras"))):
        flags = [flag for flag in given if flag in own]
        if flags and needed not in given:
            raise UsageError(f"{', '.join(flags)} only has a meaning with {needed}.", "Add it.")
    check_cameras(target.cameras, given)
    check_engines(engines)


def check_cameras(options: Cameras, given: list[str]) -> None:
    """Raise UsageError for cameras that cannot be, and for colours of formats that have none of their own."""
    encoded = [flag for flag in given if flag in ("--camera-colour", "--camera-range")]
    if encoded and options.camera_format not in ("nv12", "yuyv"):
        raise UsageError(f"{', '.join(encoded)} is for nv12 and yuyv.", "Add --camera-format, or leave it out.")
    _ = options.cameras


def check_engines(engines: Engines) -> None:
    """Raise UsageError for options of engines that contradict each other."""
    smallest, _, largest = engines.batches
    if engines.dla is not None and smallest != largest:
        raise UsageError("DLA takes one batch size only.", "Use for example --batch 8 with --dla.")
    if engines.dla is not None and engines.hardware_compatible:
        raise UsageError("--dla binds an engine to its board.", "Leave out --hardware-compatible.")


def check_new(options: ExportOptions, target: TargetOptions) -> None:
    """Raise UsageError where a target needs what the export of a run will not hold."""
    lacking = sorted(set(target.engines.precision) - {"fp32", *options.precisions.wanted})
    if lacking:
        raise UsageError(f"--precision {lacking[0]} is not among the models to be written.", f"Add --{lacking[0]}.")
    if "deepstream" in target.integrations.emit and options.files.input != "float-nchw-255":
        raise UsageError("nvinfer feeds planes from 0 to 255.", "With --emit deepstream, add --input float-nchw-255.")


def check_present(directory: Path, options: ExportOptions, target: TargetOptions) -> None:
    """Raise UsageError where a finished export would have to change, or where there is nothing to do."""
    foreign = [flag for flag in changed(options) if flag != "--overwrite"]
    if foreign:
        raise UsageError(
            f"{directory} is an export, and an export never changes: {', '.join(foreign)} needs the run.",
            "Give the run directory, or only --tensorrt, --camera and --emit.",
        )
    if not target.engines.tensorrt and not target.integrations.emit and not target.cameras.camera:
        raise UsageError(
            f"{directory} is an export already.", "Give --tensorrt, --camera or --emit, or the run directory."
        )
