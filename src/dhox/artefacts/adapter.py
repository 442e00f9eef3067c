"""adapter.safetensors: the header of a few-shot teacher."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from dhox.artefacts.record import Count, NotNegative, Positive, Record

ChosenOn = Literal["validation", "fixed"]
StrengthFrom = Literal["validation", "cross-validation", "fixed"]


class AdapterHeader(Record, kw_only=True):
    """The numbers of a Tip-Adapter, under `dhox` in the metadata; its tensors are keys, values and text."""

    schema: Literal["dhox.adapter/1"] = "dhox.adapter/1"
    scale: Annotated[Positive, Meta(description="factor of the cosines")]
    alpha: Annotated[NotNegative, Meta(description="weight of the memory")]
    beta: Annotated[Positive, Meta(description="how fast an affinity falls with distance")]
    chosen_on: ChosenOn
    n: Annotated[Count, Meta(description="validation images")]


class ProbeHeader(Record, kw_only=True):
    """The numbers of a text-anchored probe, under `dhox` in the metadata; its tensor is weight."""

    schema: Literal["dhox.text-probe/1"] = "dhox.text-probe/1"
    strength: Annotated[Positive | None, Meta(description="of the pull towards the class texts; none: zero-shot")]
    chosen_on: StrengthFrom
    n: Annotated[Count, Meta(description="images that chose it")]
