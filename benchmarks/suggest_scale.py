"""Time and memory of choosing images, beside the embeddings: python benchmarks/suggest_scale.py [--images 100000]

Embeddings are random points around class directions. The ratio is to one product of all embeddings with as many
centres as labels: what any clustering has to do at least once.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from torch.nn.functional import normalize

from dhox.distill.suggesting.selectors import coreset, typiclust
from dhox.distill.suggesting.space import Space, chunks, squared_distances

WIDTH, CLASSES = 512, 100


def random_space(n: int) -> Space:
    generator = torch.Generator().manual_seed(0)
    text = normalize(torch.randn(CLASSES, WIDTH, generator=generator), dim=-1)
    z = torch.empty(n, WIDTH, dtype=torch.float16)
    for place, rows in chunks(torch.arange(n)):
        z[place] = normalize(
            text[rows % CLASSES] + 0.05 * torch.randn(len(rows), WIDTH, generator=generator), dim=-1
        ).half()
    return Space(z, text, 100.0, torch.arange(n), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--n", type=int, default=400)
    options = parser.parse_args()
    space = random_space(options.images)
    begun = time.perf_counter()
    centres = space.embeddings(torch.arange(options.n))
    for _, rows in chunks(space.pile):
        squared_distances(space.embeddings(rows), centres).argmin(1)
    product = time.perf_counter() - begun
    print(f"{options.images:,} embeddings of {WIDTH} numbers, {options.n} to choose; one product {product:.1f} s")
    for name, selector in (("typiclust", typiclust), ("coreset", coreset)):
        begun = time.perf_counter()
        chosen = selector(space, options.n, torch.Generator().manual_seed(0))
        seconds = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(
            f"{name:10} {seconds:6.1f} s, {seconds / product:5.1f} products, {peak:.2f} GB at most; {len(set(chosen))}"
        )


if __name__ == "__main__":
    main()
