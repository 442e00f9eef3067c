"""audit.json: what a teacher knows of DATA before any training."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from dhox.artefacts.common import Accuracy, Calibration, Classes, Versions, check_classes
from dhox.artefacts.record import Count, Kind, Name, Record, Share
from dhox.evidence.statistics import paired_lower_bound

Cosine = Annotated[float, Meta(ge=-1.01, le=1.01)]
Pair = Annotated[tuple[str, str], Meta(description="names of two classes")]
Verdict = Literal["can pay", "unlikely to pay", "cannot tell"]
WayName = Literal["zero-shot", "linear probe"]
ZERO_SHOT: WayName = "zero-shot"


class AuditTeacher(Record, kw_only=True):
    """The teacher of an audit."""

    name: Name
    scale: Annotated[float, Meta(description="factor of the cosines")]
    logit_bias: float | None
    templates: list[str]
    parameters: Annotated[Count, Meta(description="of the image tower")]
    calibration: Annotated[Calibration | None, Meta(description="null where no image has a label")] = None


class AuditSets(Record, kw_only=True):
    """How many images are what."""

    labelled: Count
    unlabelled: Count
    validation: Count
    test: Count
    shots: int | None
    split_seed: int


class JudgesSummary(Record, kw_only=True):
    """The images that every accuracy comes from."""

    n: Count
    cross_validated: Annotated[bool, Meta(description="they are the labelled images")]
    words: str


class WayRow(Accuracy, kw_only=True):
    """One way to answer, measured on the same images as every other."""

    way: WayName
    model: Name
    parameters: Annotated[Count, Meta(description="of the image tower")]
    difference: Annotated[float, Meta(description="to the teacher's zero-shot answers, paired, points")]
    lower_bound: Annotated[float, Meta(description="of the difference, one-sided 95 %, points")]


class TemplateRow(Accuracy, kw_only=True):
    """Zero-shot accuracy of one template alone."""

    template: str


class ClassRow(Accuracy, kw_only=True, rename={"class_": "class"}):
    """Zero-shot accuracy of one class."""

    class_: Annotated[str, Meta(description="its name")]
    probe: Accuracy | None
    taken_for: Annotated[str | None, Meta(description="the most frequent wrong answer")]
    times: Annotated[Count, Meta(description="images with that answer")]


class Gain(Record, kw_only=True):
    """What other prompts gain on images that had no part in choosing them, paired with the present prompts."""

    gained: Annotated[Count, Meta(description="images right with the new prompts alone")]
    lost: Annotated[Count, Meta(description="images right with the present prompts alone")]
    n: Count
    difference: Annotated[float, Meta(description="of the accuracies, points")]
    lower_bound: Annotated[float, Meta(description="of the difference, one-sided 95 %, points")]

    @property
    def shown(self) -> bool:
        """Whether there is evidence for a gain."""
        return self.lower_bound > 0

    @classmethod
    def of(cls, new: np.ndarray, old: np.ndarray) -> Gain:
        """From right or wrong of the same images, bool [N] each."""
        gained, lost, n = int((new & ~old).sum()), int((old & ~new).sum()), len(new)
        bound = 100 * paired_lower_bound(gained, lost, n)
        return cls(gained=gained, lost=lost, n=n, difference=100 * (gained - lost) / max(n, 1), lower_bound=bound)


class PromptRow(Accuracy, kw_only=True, rename={"class_": "class"}):
    """How a class's labelled images are recognised by its prompt, and whether another prompt does better."""

    class_: Annotated[str, Meta(description="its name")]
    prompt: Annotated[str, Meta(description="its present prompt name")]
    not_understood: Annotated[bool, Meta(description="the interval lies below the mean of the other classes")]
    tried: Annotated[Count, Meta(description="other prompt names")]
    best: Annotated[str | None, Meta(description="the best other one on all images; null where the present one is")]
    gain: Annotated[Gain | None, Meta(description="of choosing among them, cross-fitted; null where none was tried")]
    recommended: bool


class TemplatesRow(Accuracy, kw_only=True):
    """A set of templates instead of the present one, with the present prompt names."""

    templates: Annotated[str, Meta(description="what --templates takes, or present")]
    gain: Annotated[Gain | None, Meta(description="of choosing it, cross-fitted; null for the present one")]
    recommended: bool


class PromptTrial(Record, kw_only=True):
    """Whether the teacher understands the prompts, and whether others do better, by the images that judge."""

    folds: Count
    classes: Annotated[list[PromptRow], Meta(description="those with at least 2 labelled images, in class order")]
    templates: Annotated[list[TemplatesRow], Meta(description="the present ones first")]
    together: Annotated[Gain | None, Meta(description="of all recommended prompt names at once")]

    @property
    def class_list(self) -> bool:
        """Whether there is evidence for another class list."""
        return self.together is not None and self.together.shown

    @property
    def best_templates(self) -> str | None:
        """The templates that are recommended."""
        return next((row.templates for row in self.templates if row.recommended), None)


class Confusion(Record, kw_only=True):
    """Two classes that zero-shot answers mix up."""

    classes: Pair
    first_taken_for_second: Count
    second_taken_for_first: Count
    n: Annotated[Count, Meta(description="images of both classes")]
    text_cosine: Cosine
    examples: Annotated[list[str], Meta(description="names of images")]


class TextPair(Record):
    """Two classes whose prompts are alike."""

    classes: Pair
    text_cosine: Cosine


class NearPair(Record, kw_only=True):
    """An image and the training image that is nearest to it."""

    image: str
    training_image: str
    cosine: Cosine


class CopiesOf(Record, kw_only=True):
    """Copies of training images in one split."""

    n: Count
    exact: Annotated[Count, Meta(description="images with the content of a training image")]
    near: Annotated[Count | None, Meta(description="images above the threshold; null without one")]
    pairs: Annotated[list[NearPair], Meta(description="the nearest, most alike first")]


class NearCopies(Record, kw_only=True):
    """Images of val and test that training would see."""

    threshold: Annotated[Cosine | None, Meta(description="above: a near-copy; null without two labelled classes")]
    calibrated_on: Annotated[Count, Meta(description="labelled images")]
    recognised: Annotated[Share | None, Meta(description="share of lightly altered copies above the threshold")]
    control: Annotated[Share | None, Meta(description="share of training images above it among themselves")]
    validation: CopiesOf
    test: CopiesOf


class UnlikeImage(Record, kw_only=True):
    """A training image that is like no class."""

    image: str
    place: Annotated[float, Meta(ge=0, le=1, description="mean rank, 0: least like its class")]
    nearest_class: Annotated[Count, Meta(description="id of a class")]


class Unlike(Record, kw_only=True):
    """The training images least like any class."""

    of: Literal["unlabelled", "labelled"]
    n: Count
    below: Annotated[Share | None, Meta(description="of the unlabelled, below the lowest 5 % of the labelled")]
    images: list[UnlikeImage]


class Audit(Kind, kw_only=True):
    """audit.json."""

    schema: Literal["dhox.audit/1"] = "dhox.audit/1"
    status: Literal["complete"] = "complete"
    finished_at: Annotated[Name, Meta(description="UTC, ISO 8601")]
    data: Annotated[str, Meta(description="DATA, absolute where it is a path")]
    classes: Classes
    teacher: AuditTeacher
    sets: AuditSets
    judges: JudgesSummary
    ways: list[WayRow]
    verdict: Verdict
    advice: Annotated[list[str], Meta(description="sentences with measured accuracies")]
    templates: Annotated[list[TemplateRow], Meta(description="best first")]
    per_class: Annotated[list[ClassRow], Meta(description="in class order")]
    confusions: Annotated[list[Confusion], Meta(description="most frequent first")]
    closest_texts: Annotated[list[TextPair], Meta(description="most alike first")]
    near_copies: NearCopies
    unlike: Unlike
    skipped: Annotated[list[str], Meta(description="images that could not be read")]
    notes: list[str]
    environment: Versions
    prompts: Annotated[PromptTrial | None, Meta(description="null where no image has a label")] = None

    def __post_init__(self) -> None:
        check_classes(self.classes)
        if any(image.nearest_class >= len(self.classes) for image in self.unlike.images):
            raise ValueError("unlike.images names a class that is not there")
