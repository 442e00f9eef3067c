"""The one way from images to probabilities, whatever runs the model."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dhox.artefacts.common import Preprocessing
from dhox.data.images import UnreadableImageError, decode, model_input, to_rgb
from dhox.data.items import Item, read_image
from dhox.errors import DhoxError
from dhox.progress import progress_bar
from dhox.runtimes.runtime import Session
from dhox.runtimes.tensors import Tensors

BATCH = 32
ImageLike = str | Path | bytes | Image.Image | np.ndarray | Item


def predict(
    session: Session, tensors: Tensors, images: np.ndarray | Sequence[ImageLike], description: str | None = None
) -> np.ndarray:
    """Probabilities float32 [N, C] of at least one image, in batches; with a `description` under a progress bar.

    `images`: preprocessed pixels uint8 [N, crop, crop, 3], or what `opened` takes. Raises DhoxError for an image that
    cannot be read and where the runtime refuses a batch.
    """
    size = tensors.fixed_batch or BATCH
    parts = []
    with progress_bar(description, len(images)) if description else nullcontext(lambda n: None) as advance:
        for start in range(0, len(images), size):
            chunk = images[start : start + size]
            batch = chunk if isinstance(chunk, np.ndarray) else pixels_of(chunk, tensors.preprocessing)
            if tensors.fixed_batch or start:  # images again fill the last batch: some runtimes build for every size
                batch = np.resize(batch, (size, *batch.shape[1:]))
            parts.append(tensors.probs(session.infer(tensors.graph_input(batch)))[: len(chunk)])
            advance(len(chunk))
    return np.concatenate(parts)


def pixels_of(images: Sequence[ImageLike], preprocessing: Preprocessing) -> np.ndarray:
    """Images (see `opened`) as preprocessed pixels, uint8 [N, crop, crop, 3]."""
    return np.stack([pixels(image, preprocessing) for image in images])


def pixels(image: ImageLike, preprocessing: Preprocessing) -> np.ndarray:
    """An image (see `opened`) as preprocessed pixels, uint8 [crop, crop, 3]; an array that is that already as it is."""
    wanted = (preprocessing.resize, preprocessing.crop, 3)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == wanted and wanted[0] == wanted[1]:
        return image
    return model_input(opened(image, preprocessing.jpeg_side), preprocessing)


def opened(image: ImageLike, jpeg_side: int | None) -> Image.Image:
    """An image of DATA, a path, an encoded or a PIL image, or an array uint8 RGB [H, W, 3], as upright RGB.

    The same image gives the same pixels in every form, with one exception: with `jpeg_side` (see `decode`) a large JPEG
    is decoded smaller, and a PIL image or an array, which the caller decoded, is taken as it is. Raises DhoxError.
    """
    if isinstance(image, Item):
        return read_image(image, jpeg_side)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise DhoxError(
                f"An array image is uint8 RGB [H, W, 3], not {image.dtype} {list(image.shape)}.", "Convert it."
            )
        return Image.fromarray(image)
    if isinstance(image, bytes):
        return decode(io.BytesIO(image), "image", jpeg_side)
    if isinstance(image, Image.Image):
        return to_rgb(ImageOps.exif_transpose(image), "image")
    if not Path(image).is_file():
        raise UnreadableImageError(str(image), "there is no such file")
    return decode(Path(image), jpeg_side=jpeg_side)
