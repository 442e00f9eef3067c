"""What a training does where an option is left out: the best measured recipe for its labels and student.

docs/recipes.md has the measurements; `--recipe dho-paper` gives the paper's own.
"""

from __future__ import annotations

from dhox.distill.options import Adapter, DistillOptions
from dhox.distill.training.steps import BATCH_SIZES, Steps

FROM_RANDOM_WEIGHTS = 3e-3
FROM_TRAINED_WEIGHTS = 1e-3  # the DHO authors' (arXiv 2505.07675, few-shot scripts)


def adapter_of(options: DistillOptions) -> Adapter:
    """What the teacher learns from the labels: a probe wherever labels train beside embeddings that are kept."""
    if options.teacher.adapter is not None:
        return options.teacher.adapter
    teacher = options.teacher
    has_embeddings = teacher.teacher_logits is None and not teacher.online_teacher
    return "probe" if all(options.training.uses) and has_embeddings else "none"


def learning_rate_of(options: DistillOptions) -> float:
    """AdamW's peak learning rate: higher where the student starts from random weights."""
    if options.training.learning_rate is not None:
        return options.training.learning_rate
    return FROM_RANDOM_WEIGHTS if starts_random(options) else FROM_TRAINED_WEIGHTS


def starts_random(options: DistillOptions) -> bool:
    """Whether the backbone has learnt nothing yet."""
    return options.student.student_weights == "none" and options.student.init_from is None


def recipe_sentence(options: DistillOptions, steps: Steps) -> str:
    """Which recipe this is and why, in one line."""
    adapter, rate = adapter_of(options), learning_rate_of(options)
    parts = [f"Recipe: {options.training.method}"]
    if all(options.training.uses):
        chosen = "" if options.teacher.adapter is None else " as asked"
        teachers = {
            "none": f"a zero-shot teacher{chosen}",
            "probe": f"a teacher that learns from the labels first{chosen or ' (a probe, which gained most)'}",
        }
        parts.append(teachers.get(adapter, f"Tip-Adapter as teacher ({adapter}){chosen}"))
    if options.training.uses[1]:
        parts.append(f"its targets at temperature {options.teacher.teacher_temperature:g}")
    why = "as asked"
    if options.training.learning_rate is None:
        why = "the student starts from random weights" if starts_random(options) else "the student is trained already"
    parts.append(f"learning rate {rate:g} ({why})")
    training, sizes = options.training, f"{steps.batch_labelled} + {steps.batch_unlabelled} images per step"
    given = training.batch_labelled is not None or training.batch_unlabelled is not None
    few = steps.batch_labelled + steps.batch_unlabelled < sum(BATCH_SIZES[0]) and not given
    parts.append(f"{sizes} (few images: smaller batches, more steps)" if few else sizes)
    parts.append(f"{steps.total:,} steps, {steps.views} views")
    return ", ".join(parts) + "."
