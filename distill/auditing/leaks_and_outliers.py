"""Images to look at before training: copies across splits, and images unlike any class."""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader

from dhox.artefacts.audit import CopiesOf, NearCopies, NearPair, Unlike, UnlikeImage
from dhox.data.dataset import Item, spread
from dhox.distill.auditing.nearest import nearest, ranks_within
from dhox.distill.auditing.subject import Embedded, Subject
from dhox.distill.images.pixels import WholeImages

ALTERED, CONTROL = 200, 2000  # training images that calibrate the search for near-copies
SHOWN = 16  # pairs and images named
UNLIKE_SHARE = 0.05  # of the labelled images, by definition


def altered(image: Image.Image) -> Image.Image:
    """The light change that a near-copy is expected to survive."""
    width, height = image.size
    left, top = max(1, round(0.03 * width)), max(1, round(0.03 * height))
    if width > 2 * left and height > 2 * top:
        image = image.crop((left, top, width - left, height - top)).resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return Image.open(buffer).convert("RGB")


def near_copies(embedded: Embedded, subject: Subject) -> NearCopies:
    """Images of val and test that training would see: exact copies by content, near-copies by the teacher's embedding.

    An image counts as a near-copy where its nearest training image is more similar than 99.9 % of the labelled images
    (training and validation, never test) are to their nearest image of *another* class, which cannot be a copy. How far
    to trust that is measured: `recognised`, the share of lightly altered copies (`altered`) above the threshold, and
    `control`, the share of training images above it among themselves. No threshold without two labelled classes.
    """
    teacher, device, embeddings = embedded.teacher, embedded.teacher.device, embedded.z
    sets, splits, content = subject.sets, subject.images.splits, subject.images.content
    training = sets["labelled"] + sets["unlabelled"]
    z_training = torch.cat([embeddings["labelled"], embeddings["unlabelled"]])
    known = sets["labelled"] + sets["validation"]
    numbers = subject.numbers(known)
    threshold = recognised = control = None
    if len(numbers.unique()) > 1:
        z_known = torch.cat([embeddings["labelled"], embeddings["validation"]])
        apart = nearest(z_known, z_known, device, exclude=(numbers, numbers)).similarity
        threshold = float(apart.double().quantile(0.999, interpolation="higher"))
        places = spread([*range(len(training))], ALTERED)
        chosen = WholeImages([training[i] for i in places], lambda image: teacher.transform(altered(image)))
        loader = DataLoader(chosen, batch_size=64)
        changed = torch.cat([teacher.encode_images(images).cpu() for images in loader])
        cosine = functional.cosine_similarity(changed, z_training[places].float())
        recognised = float((cosine > threshold).float().mean())
        places = spread([*range(len(training))], CONTROL)
        own = nearest(z_training[places], z_training, device, (torch.tensor(places), torch.arange(len(training))))
        control = float((own.similarity > threshold).float().mean())
    seen = {content[item.name] for split in ("train", "unlabelled") for item in splits[split]}
    of_split: dict[str, CopiesOf] = {}
    for name, split in (("validation", "val"), ("test", "test")):
        found = nearest(embeddings[name], z_training, device)
        order = found.similarity.argsort(descending=True, stable=True)[:SHOWN].tolist()
        of_split[name] = CopiesOf(
            n=len(sets[name]),
            exact=sum(content[item.name] in seen for item in splits[split]),
            near=int((found.similarity > threshold).sum()) if threshold is not None else None,
            pairs=[
                NearPair(
                    image=sets[name][i].name,
                    training_image=training[int(found.row[i])].name,
                    cosine=float(found.similarity[i]),
                )
                for i in order
            ],
        )
    return NearCopies(threshold=threshold, calibrated_on=len(known), recognised=recognised, control=control, **of_split)


def unlike(embedded: Embedded, sets: dict[str, list[Item]]) -> Unlike:
    """The training images least like any class, by rank alone, since similarities mean something else for each teacher.

    An image's place is the mean of two ranks among the training images with the same nearest class text: of its cosine
    to that text, and of its greatest cosine to a labelled image other than itself (where there are labels). `below`:
    the share of the unlabelled images that lie below the lowest 5 % of the labelled ones; about 5 % where both are of
    one kind.
    """
    labelled, unlabelled = sets["labelled"], sets["unlabelled"]
    z_labelled, device = embedded.z["labelled"], embedded.teacher.device
    items, z = labelled + unlabelled, torch.cat([z_labelled, embedded.z["unlabelled"]])
    to_text = nearest(z, embedded.text, device)
    place = ranks_within(to_text.similarity, to_text.row)
    if len(labelled) > 1:
        to_labelled = nearest(z, z_labelled, device, (torch.arange(len(items)), torch.arange(len(labelled))))
        place = (place + ranks_within(to_labelled.similarity, to_text.row)) / 2
    below = None
    if labelled and unlabelled:
        lowest = place[: len(labelled)].quantile(UNLIKE_SHARE)
        below = float((place[len(labelled) :] < lowest).double().mean())
    first = len(labelled) if unlabelled else 0
    order = (place[first:].argsort(stable=True)[:SHOWN] + first).tolist()
    return Unlike(
        of="unlabelled" if unlabelled else "labelled",
        n=len(items) - first,
        below=below,
        images=[
            UnlikeImage(image=items[i].name, place=float(place[i]), nearest_class=int(to_text.row[i])) for i in order
        ],
    )
