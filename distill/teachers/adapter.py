"""Few-shot teachers on embeddings: Tip-Adapter and Tip-Adapter-F (Zhang et al. 2022, arXiv 2111.03930).

The reference code chooses epoch, alpha and beta on test; here the last keys are kept, and alpha and beta are chosen on
validation embeddings or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch
from safetensors.torch import save
from torch.nn import functional

from dhox.artefacts.adapter import AdapterHeader, ChosenOn
from dhox.artefacts.files import write_bytes
from dhox.distill.results.selection import FEWEST_IMAGES
from dhox.errors import DhoxError

ADAPTER_FILE = "adapter.safetensors"
TENSORS = ("keys", "values", "text")

# In units of the data, see `units`: alpha 1 gives both terms the same spread over the classes, beta 1 lets an affinity
# fall to 1/e over the mean distance between two labelled images.
ALPHAS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0, 10.0)
BETAS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
FIXED_ALPHA, FIXED_BETA = 0.5, 1.0
FULL_TRUST = 16  # labelled images per class from which the fixed alpha is not lowered

# Tip-Adapter-F, as the reference code: 20 epochs, and more where they are short (it takes 100 epochs for ten classes).
EPOCHS, FEWEST_STEPS, BATCH, LEARNING_RATE, EPS = 20, 100, 256, 1e-3, 1e-4
ROWS = 4096  # images per matrix product


@dataclass(frozen=True, eq=False)
class TipAdapter:
    """A teacher with a memory of labelled images: logits = scale z W^T + alpha exp(-beta (1 - z F^T)) onehot(values).

    `keys` F [K, D] and `values` [K] (int64 class numbers): the labelled images. `text` W [C, D]. `chosen_on`:
    `validation` (alpha and beta maximise accuracy on `n` validation images) or `fixed` (n validation images were too
    few).
    """

    keys: torch.Tensor
    values: torch.Tensor
    text: torch.Tensor
    scale: float
    alpha: float
    beta: float
    chosen_on: ChosenOn
    n: int
    trained_keys: bool = False

    def logits(self, z: torch.Tensor) -> torch.Tensor:
        """Teacher logits [B, C] of normalised embeddings [B, D], float32, on the device of z (eq. 5 of the paper)."""
        keys, values, text = (tensor.to(z.device) for tensor in (self.keys, self.values, self.text))
        z = z.float()
        return self.scale * z @ text.T + self.alpha * _cache_logits(z, keys, _one_hot(values, len(text)), self.beta)

    def to(self, device: torch.device) -> TipAdapter:
        """The same adapter with its tensors on a device."""
        keys, values, text = (tensor.to(device) for tensor in (self.keys, self.values, self.text))
        return replace(self, keys=keys, values=values, text=text)

    def save(self, path: Path) -> None:
        """Write it as safetensors, its numbers as JSON in the header; atomic."""
        header = AdapterHeader(scale=self.scale, alpha=self.alpha, beta=self.beta, chosen_on=self.chosen_on, n=self.n)
        tensors = {name: getattr(self, name).cpu().contiguous() for name in TENSORS}
        write_bytes(path, save(tensors, {"dhox": msgspec.json.encode(header).decode()}))

    def sentence(self) -> str:
        """What was fitted, and on what alpha and beta were chosen."""
        name = "Tip-Adapter-F" if self.trained_keys else "Tip-Adapter"
        start = f"teacher: {name} on {len(self.keys)} labelled images, alpha {self.alpha:.3g} and beta "
        if self.chosen_on == "validation":
            return start + f"{self.beta:.3g} chosen on {self.n} validation images"
        return (
            start + f"{self.beta:.3g} fixed ({self.n} validation labels, {FEWEST_IMAGES} needed); it may be worse "
            "than zero-shot, compare the teacher row"
        )


def fit_tip_adapter(
    labelled: torch.Tensor,
    labels: torch.Tensor,
    text: torch.Tensor,
    scale: float,
    validation: tuple[torch.Tensor, torch.Tensor] | None,
    *,
    train_keys: bool,
    seed: int,
) -> TipAdapter:
    """Tip-Adapter (`train_keys` False) or Tip-Adapter-F of labelled images.

    `labelled` [N, V, D]: normalised embeddings of V views of each; `labels` [N] in [0, C); `text` [C, D] normalised;
    `scale`: the teacher's. `validation`: embeddings [M, D] of whole images and their labels [M], which choose alpha and
    beta by accuracy (ties: lower NLL, then nearest to fixed). With None or fewer than 50 they are fixed, in `units`, at
    alpha 0.5 min(1, K / 16) for K images per class (a constant weight per image up to 16 shots) and beta 1.
    Tip-Adapter-F trains the keys with cross-entropy on random views at that fixed point (AdamW, cosine, batch 256, 20
    epochs but at least 100 steps); the last keys are kept. Deterministic on one device. Raises DhoxError where
    there is no labelled image.
    """
    if not len(labelled):
        raise DhoxError(
            "A few-shot teacher needs labelled images, and there is none.", "Use --adapter none, or add labels."
        )
    labelled, text = labelled.float(), text.to(labelled.device).float()
    labels = labels.to(labelled.device).long()
    keys = functional.normalize(labelled.mean(1), dim=-1)
    unit_beta, unit_alphas = units(keys, labels, text, scale)
    trust = min(1.0, len(labels) / len(text) / FULL_TRUST)
    alpha, beta = FIXED_ALPHA * trust * unit_alphas[BETAS.index(FIXED_BETA)], FIXED_BETA * unit_beta
    if train_keys:
        keys = _trained_keys(keys, labelled, labels, text, scale, alpha, beta, seed)
    n = 0 if validation is None else len(validation[1])
    if validation is None or n < FEWEST_IMAGES:
        return TipAdapter(keys, labels, text, scale, alpha, beta, "fixed", n, train_keys)
    z, truth = validation[0].to(keys.device).float(), validation[1].to(keys.device).long()
    ranked = []
    for b, unit_alpha in zip(BETAS, unit_alphas, strict=True):
        memory = torch.cat(
            [_cache_logits(part, keys, _one_hot(labels, len(text)), b * unit_beta) for part in z.split(ROWS)]
        )
        for a in ALPHAS:
            logits = scale * z @ text.T + a * unit_alpha * memory
            right = int((logits.argmax(-1) == truth).sum())
            nll = round(functional.cross_entropy(logits, truth).item(), 5)
            steps = abs(ALPHAS.index(a) - ALPHAS.index(FIXED_ALPHA)) + abs(BETAS.index(b) - BETAS.index(FIXED_BETA))
            ranked.append((-right, nll, steps, a * unit_alpha, b * unit_beta))
    *_, alpha, beta = min(ranked)
    return TipAdapter(keys, labels, text, scale, alpha, beta, "validation", n, train_keys)


def _one_hot(values: torch.Tensor, classes: int) -> torch.Tensor:
    """Class numbers [K] to float [K, C]."""
    return functional.one_hot(values, classes).float()


def _cache_logits(z: torch.Tensor, keys: torch.Tensor, onehot: torch.Tensor, beta: float) -> torch.Tensor:
    """exp(-beta (1 - z F^T)) onehot, [B, C] of z [B, D], keys [K, D] and onehot [K, C]."""
    return (beta * (z @ keys.T - 1)).exp() @ onehot


def units(keys: torch.Tensor, labels: torch.Tensor, text: torch.Tensor, scale: float) -> tuple[float, list[float]]:
    """(unit of beta, the unit of alpha at each of BETAS), from labelled images alone.

    The reference grids (alpha 0.1 to 3, beta 0.1 to 7 and wider) suit CLIP: scale 100, and cosines between images that
    differ by a few tenths. A teacher whose cosines spread k times wider at a k times smaller scale answers the same
    with beta / k; one whose logits are k times larger wants k times alpha. So beta counts in 1 / (mean cosine distance
    between two labelled images), and alpha in the spread of the zero-shot logits over the classes divided by that of
    the memory's logits. Only the labelled images are used.
    """
    chosen = torch.linspace(0, len(keys) - 1, min(len(keys), ROWS)).long().to(keys.device)
    cosine = keys[chosen] @ keys.T
    own = torch.zeros_like(cosine, dtype=torch.bool).scatter_(1, chosen[:, None], value=True)
    distance = (1 - cosine)[~own].mean().item() if len(keys) > 1 else 1.0
    unit_beta = 1 / max(distance, 1e-6)
    zero_shot = (scale * keys[chosen] @ text.T).std(1).mean().item()
    onehot = _one_hot(labels, len(text))
    unit_alphas = []
    for beta in BETAS:
        affinity = (unit_beta * beta * (cosine - 1)).exp().masked_fill(own, 0)  # an image is no neighbour of itself
        unit_alphas.append(zero_shot / max((affinity @ onehot).std(1).mean().item(), 1e-6))
    return unit_beta, unit_alphas


def _trained_keys(
    keys: torch.Tensor,
    labelled: torch.Tensor,
    labels: torch.Tensor,
    text: torch.Tensor,
    scale: float,
    alpha: float,
    beta: float,
    seed: int,
) -> torch.Tensor:
    """Tip-Adapter-F's keys [K, D], started from Tip-Adapter's: one random view of every labelled image per epoch."""
    generator = torch.Generator().manual_seed(seed)
    weights = keys.clone().requires_grad_(True)
    optimiser = torch.optim.AdamW([weights], lr=LEARNING_RATE, eps=EPS)
    epoch_steps = -(-len(labels) // BATCH)
    epochs = max(EPOCHS, -(-FEWEST_STEPS // epoch_steps))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * epoch_steps)
    onehot = _one_hot(labels, len(text))
    for _ in range(epochs):
        order = torch.randperm(len(labels), generator=generator)
        views = torch.randint(labelled.shape[1], (len(labels),), generator=generator)
        for batch in order.split(BATCH):
            z = labelled[batch, views[batch]]
            logits = scale * z @ text.T + alpha * _cache_logits(z, weights, onehot, beta)
            loss = functional.cross_entropy(logits, labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return weights.detach()
