"""What a camera delivers: the size and layout of its raw frames, and how it is mounted (nothing heavy is imported)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from dhox.artefacts.record import Record

LARGEST_FRAME = 16384
FrameSide = Annotated[int, Meta(ge=1, le=LARGEST_FRAME, description="pixels")]
Offset = Annotated[int, Meta(ge=0, le=LARGEST_FRAME)]
FrameFormat = Literal["rgb", "bgr", "nv12", "yuyv", "gray"]
Colour = Literal["bt601", "bt709"]
Range = Literal["limited", "full"]
Rotation = Literal[0, 90, 180, 270]


class Roi(Record):
    """The part of the upright picture that is classified; (x, y) is its left upper corner."""

    x: Offset
    y: Offset
    width: FrameSide
    height: FrameSide


class Camera(Record):
    """What a camera delivers, and how it is mounted.

    `width`, `height`: of the frame as delivered. `colour`, `range`: how nv12 and yuyv encode RGB; None for the others.
    `rotate`: degrees clockwise that make the picture upright. `roi`: a part of the upright picture; None for all of it.
    """

    width: FrameSide
    height: FrameSide
    format: FrameFormat = "rgb"
    colour: Colour | None = None
    range: Range | None = None
    rotate: Rotation = 0
    roi: Roi | None = None

    def __post_init__(self) -> None:
        if wrong := self.wrong:
            raise ValueError(wrong)

    @property
    def yuv(self) -> bool:
        """Whether luma and chroma are delivered, not colours."""
        return self.format in ("nv12", "yuyv")

    @property
    def wrong(self) -> str | None:
        """What contradicts itself, or None."""
        if self.yuv != (self.colour is not None) or self.yuv != (self.range is not None):
            return f"colour and range belong to nv12 and yuyv, and the format is {self.format}"
        if self.format == "nv12" and (self.width % 2 or self.height % 2):
            return f"nv12 holds one chroma sample for 2x2 pixels, and {self.size} has an odd side"
        if self.format == "yuyv" and self.width % 2:
            return f"yuyv holds one chroma sample for 2 pixels of a row, and {self.size} has an odd width"
        width, height = self.upright
        roi = self.roi
        if roi and (roi.x + roi.width > width or roi.y + roi.height > height):
            return f"the region {roi.x},{roi.y},{roi.width},{roi.height} does not lie in the upright {width}x{height}"
        return None

    @property
    def size(self) -> str:
        """WIDTHxHEIGHT as delivered."""
        return f"{self.width}x{self.height}"

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height of the upright picture."""
        return (self.height, self.width) if self.rotate in (90, 270) else (self.width, self.height)

    @property
    def region(self) -> Roi:
        """The part of the upright picture that is classified."""
        return self.roi or Roi(0, 0, *self.upright)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one frame, uint8: [H, W, 3] rgb and bgr; [H, W] gray; [H * 3 / 2, W] nv12 (Y, then rows of U and V in
        turn); [H, W, 2] yuyv (Y U, Y V, ...)."""
        if self.format == "nv12":
            return (self.height * 3 // 2, self.width)
        last = {"rgb": (3,), "bgr": (3,), "yuyv": (2,), "gray": ()}[self.format]
        return (self.height, self.width, *last)

    @property
    def name(self) -> str:
        """Of its folder, without the precision: what is not the default is named."""
        parts = [self.size, self.format]
        if self.yuv:
            parts += [part for part in (self.colour, self.range) if part not in (None, "bt601", "limited")]
        if self.rotate:
            parts.append(f"r{self.rotate}")
        if self.roi:
            parts.append(f"roi{self.roi.x}_{self.roi.y}_{self.roi.width}_{self.roi.height}")
        return "-".join(parts)
