from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dhox.distill.students.kd_head import KD_HEADS, create_kd_head, norm, plain_parameters, unit


def expected(kind: str, weight: np.ndarray, bias: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The three definitions, in numpy."""
    z_unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    if kind == "linear":
        return z @ weight.T + bias
    if kind == "cosine-paper":
        return 100 * z_unit @ (weight / np.linalg.norm(weight, axis=1, keepdims=True)).T
    return 100 * (z_unit @ weight.T + bias)


@pytest.mark.parametrize("kind", KD_HEADS)
@given(seed=st.integers(0, 2**20), size=st.floats(0.01, 100))
def test_each_kind_is_its_formula(kind: str, seed: int, size: float) -> None:
    torch.manual_seed(seed)
    head = create_kd_head(kind, 7, 5)
    assert [name for name, _ in head.named_parameters()] == ["weight"] + ["bias"] * (kind != "cosine-paper")
    z = size * torch.randn(9, 7)
    weight = head.weight.detach().double().numpy()
    bias = head.bias.detach().double().numpy() if kind != "cosine-paper" else np.zeros(5)
    logits = expected(kind, weight, bias, z.double().numpy())
    assert np.allclose(head(z).detach().numpy(), logits, rtol=1e-4, atol=1e-4)
    if kind != "linear":  # the length of z is of no account
        assert np.allclose(head(3 * z).detach().numpy(), logits, rtol=1e-4, atol=1e-3)

    v, c = (part.detach().double().numpy() for part in plain_parameters(kind, head))
    u = z.double() if kind == "linear" else unit(z.double())
    offset = u.numpy() @ v.T + c - logits
    assert np.allclose(offset, offset[:, :1], rtol=1e-4, atol=1e-4)
    assert kind != "linear" or np.allclose(offset, 0, atol=1e-4)


def test_a_zero_feature_is_no_nan() -> None:
    z = torch.zeros(2, 7)
    assert norm(z).shape == (2, 1)
    assert torch.equal(unit(z), z)
    for kind in KD_HEADS:
        assert torch.isfinite(create_kd_head(kind, 7, 5)(z)).all()


def test_cosine_heads_train() -> None:
    for kind in KD_HEADS:
        head = create_kd_head(kind, 7, 5)
        torch.nn.functional.cross_entropy(head(torch.randn(4, 7)), torch.arange(4)).backward()
        assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in head.parameters())
