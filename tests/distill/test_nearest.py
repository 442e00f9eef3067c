from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from dhox.distill.auditing import nearest as neighbours
from dhox.distill.auditing.nearest import nearest, ranks_within

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "QUERIES", 3)
    monkeypatch.setattr(neighbours, "POOL", 4)


@pytest.mark.parametrize(("queries", "pool"), [(1, 1), (3, 4), (7, 4), (4, 13), (10, 9)])
def test_chunks_find_what_one_product_finds(queries: int, pool: int) -> None:
    generator = torch.Generator().manual_seed(queries)
    a, b = (torch.randn(n, 5, generator=generator) for n in (queries, pool))
    cosine = normalize(a, dim=-1) @ normalize(b, dim=-1).T
    found = nearest(a, b, CPU)
    assert torch.allclose(found.similarity, cosine.max(1).values, atol=1e-6)
    assert torch.equal(found.row, cosine.argmax(1))
    groups = torch.arange(queries) % 2, torch.arange(pool) % 2
    apart = cosine.masked_fill(groups[0][:, None] == groups[1][None], -2)
    found = nearest(a, b, CPU, groups)
    assert torch.allclose(found.similarity, apart.max(1).values, atol=1e-6)


def test_nothing_has_no_neighbour() -> None:
    assert nearest(torch.zeros(0, 5), torch.ones(3, 5), CPU).similarity.shape == (0,)
    alone = nearest(torch.ones(1, 5), torch.ones(1, 5), CPU, (torch.zeros(1), torch.zeros(1)))
    assert alone.similarity.tolist() == [-2]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-50, 50)), min_size=1, max_size=30))
def test_ranks_keep_the_order_within_a_group_and_know_no_scale(rows: list[tuple[int, int]]) -> None:
    groups = torch.tensor([group for group, _ in rows])
    values = torch.tensor([value for _, value in rows], dtype=torch.float64)
    places = ranks_within(values, groups)
    assert ((places > 0) & (places < 1)).all()
    assert torch.equal(places, ranks_within(values * 4 - 1, groups))
    for group in set(groups.tolist()):
        own, place = values[groups == group], places[groups == group]
        assert torch.equal(own[:, None] < own[None], place[:, None] < place[None])
        if len(own) == 1:
            assert place.item() == 0.5
