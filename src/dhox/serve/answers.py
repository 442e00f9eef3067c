"""What the server answers, as JSON."""

from __future__ import annotations

import numpy as np

from dhox.artefacts.record import AtLeastOne, Count, Name, NotNegative, Record, Share
from dhox.predicting.rows import ClassProbability


class StageTimes(Record):
    """Milliseconds of one image: `decode`, from its bytes to the model's input; `model`, from there to probabilities;
    `all`, from the last byte of the request to this answer, with waiting, without the models beside this one."""

    decode: NotNegative
    model: NotNegative
    all: NotNegative


class ModelAnswer(Record):
    """What one model says of an image. `predicted`: None where the export's threshold makes it `unknown`. `top`: the
    most probable classes, the first one first."""

    model: Name
    predicted: str | None
    unknown: bool
    top: list[ClassProbability]
    latency_ms: StageTimes


class ImageAnswer(Record):
    """One image: what each model says, or the `error` for which there is no answer."""

    name: str
    answers: list[ModelAnswer]
    error: str | None = None


class PredictAnswer(Record):
    """The images of one request, in its order."""

    images: list[ImageAnswer]


class ModelEntry(Record, kw_only=True):
    """A model that is served. `name`: unique here; `path`: of its export; `runner`: where it runs; `note`: why its time
    says nothing about the device that its precision is made for."""

    name: Name
    path: Name
    file: Name
    precision: Name
    runner: Name
    classes: AtLeastOne
    reject_threshold: Share | None
    note: str | None


class ServedModels(Record):
    """What the page must know. `largest_upload`: bytes of a request body at most."""

    models: list[ModelEntry]
    largest_upload: AtLeastOne
    images_per_request: Count


def model_answer(
    name: str, probs: np.ndarray, classes: list[str], threshold: float | None, top: int, times: StageTimes
) -> ModelAnswer:
    """The answer from probabilities [C], unrounded; equal ones in class order."""
    first = [ClassProbability(classes[i], float(probs[i])) for i in np.argsort(-probs, kind="stable")[:top]]
    unknown = threshold is not None and first[0].probability < threshold
    return ModelAnswer(name, None if unknown else first[0].name, unknown, first, times)
