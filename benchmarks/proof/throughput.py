"""How fast is training, against the reference scheme and against the device's bound? (see train_throughput.py)"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace

from train_throughput import VIEWS, Sizes, throughput

from dhox.distill.processes import create_fabric
from proof.record import Aim, Row

CNN = Sizes("resnet18", "ViT-L-14-336", 224, 2048, 40, 128, 384, 3, True)
SIZES = {
    "resnet18": CNN,
    "efficientnet_lite0": replace(CNN, student="tf_efficientnet_lite0", images=1024),
    "vit": replace(CNN, student="vit_base_patch16_224", teacher="ViT-H-14-378-quickgelu", images=768, steps=25),
}
TINY = {"resnet18": "test_resnet", "efficientnet_lite0": "test_efficientnet", "vit": "test_vit"}
AIMS = {"host memory": Aim("at least", 0.90), "the device": Aim("at least", 0.95)}
SPEED_UP = Aim("at least", 20)


def rows(name: str, tiny: bool) -> Iterator[Row]:
    """Rates and ratios of one student and its teacher."""
    sizes = SIZES[name]
    if tiny:
        sizes = Sizes(TINY[name], "ViT-S-32-alt", 160 if name == "vit" else 64, 12, 2, 4, 8, 2, False)
    fabric, _ = create_fabric("cpu" if tiny else "cuda", None)
    found = throughput(sizes, fabric)
    who, pairs = f"{sizes.student}, {sizes.teacher}", f"{sizes.pairs} pairs"

    def rate(what: str, value: float) -> Row:
        return Row(subject=who, what=what, value=value, unit="images/s")

    yield rate("teacher, bare forward", found.teacher_forward)
    yield rate(f"caching pass, {VIEWS} views", found.caching)
    yield Row(subject=who, what="caching pass / bare forward", value=found.caching / found.teacher_forward)
    yield rate(f"packing to {found.side} px", found.packing)
    yield rate("(a) reference scheme", found.reference)
    for store, rates in found.rates.items():
        if store == "bound":
            yield rate("(c) bound, one resident batch", statistics.median(rates))
            continue
        b, shares = statistics.median(rates), found.shares(store)
        yield rate(f"(b) dhox, images in {store}", b)
        yield Row(
            subject=who, what=f"(b)/(c), images in {store}", value=statistics.median(shares),
            interval=(min(shares), max(shares)), interval_of=pairs, aim=None if tiny else AIMS[store],
        )  # fmt: skip
        speed_up = SPEED_UP if name == "resnet18" and not tiny else None
        yield Row(subject=who, what=f"(b)/(a), images in {store}", value=b / found.reference, aim=speed_up)
    if found.peak_bytes:
        yield Row(subject=who, what="peak memory of training", value=found.peak_bytes / 1e9, unit="GB")
