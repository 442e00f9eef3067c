"""The losses of DHO (arXiv 2505.07675, eqs. 4-6) and of its baselines, with their temperatures made explicit."""

from __future__ import annotations

import torch
import torch.nn.functional as F

CE_WEIGHT = 0.5  # lambda
TEMPERATURE = 2.0  # eta


def distillation_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    top_k: int | None = None,
    teacher_temperature: float = TEMPERATURE,
) -> torch.Tensor:
    """T^2 KL(softmax(teacher / T_t) || softmax(student / T)), mean over the batch, in float32.

    Both logits are [B, C]. The factor T^2 (Hinton et al. 2015) is in the authors' code, though not in the paper.
    `teacher_temperature`: T_t, which the paper takes for T too; a lower one makes sharper targets.
    `top_k`: both softmaxes run over the teacher's k most likely classes of each image alone, which leaves out what the
    teacher holds for noise (a fixed form of the mask in DeepKD, arXiv 2505.15133).
    """
    if top_k is not None and top_k < teacher_logits.shape[-1]:
        likely = teacher_logits.topk(top_k, dim=-1).indices
        teacher_logits, student_logits = teacher_logits.gather(-1, likely), student_logits.gather(-1, likely)
    student = F.log_softmax(student_logits.float() / TEMPERATURE, dim=-1)
    teacher = F.log_softmax(teacher_logits.float() / teacher_temperature, dim=-1)
    return TEMPERATURE**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def training_loss(
    ce_logits: torch.Tensor,
    kd_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    use_ce: bool,
    use_kd: bool,
    top_k: int | None = None,
    teacher_temperature: float = TEMPERATURE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(cross-entropy, distillation) of one batch whose first `len(labels)` rows are labelled.

    All logits are [B, C]; `labels` int64 [B_L]. The distillation term is the sum of two means, one over the labelled
    and one over the unlabelled rows (eq. 5), so a labelled image weighs more. A term that is not used, or has no
    row, is 0. `top_k`, `teacher_temperature`: see distillation_loss. The whole loss is
    `CE_WEIGHT * ce + (1 - CE_WEIGHT) * kd`.
    """
    n = len(labels)
    zero = ce_logits.new_zeros((), dtype=torch.float32)
    ce = F.cross_entropy(ce_logits[:n].float(), labels) if use_ce and n else zero
    kd = zero
    for rows in (slice(0, n), slice(n, len(kd_logits))):
        if use_kd and len(kd_logits[rows]):
            kd = kd + distillation_loss(kd_logits[rows], teacher_logits[rows], top_k, teacher_temperature)
    return ce, kd
