"""The recipes of docker/: held by a linter, and by what the linter does not know of."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HADOLINT = Path(sys.executable).with_name("hadolint")
RECIPES = sorted(ROOT.glob("docker/*.Dockerfile"))
FAULTS = [
    ("FROM (.*):.*", r"FROM \1:latest", "DL3007"),
    ("USER .*", "USER 0", "DL3002"),
    ("USER .*", "USER dhox", "DL3066"),
    ("=3.12.\\*", "", "DL3008"),
    ("rm -rf /var/lib/apt/lists/\\*", "true", "DL3009"),
    ("--no-install-recommends", "", "DL3015"),
    ("sh /bundle/install.sh /opt/dhox", "pip install dhox", "DL3042"),
]


def lint(recipe: str) -> subprocess.CompletedProcess[str]:
    command = [HADOLINT, "--no-color", "--failure-threshold", "style", "-"]
    return subprocess.run(command, input=recipe, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not HADOLINT.exists(), reason="no hadolint here (make setup)")
def test_the_linter_passes_the_recipes_and_finds_their_faults() -> None:
    assert [recipe.stem for recipe in RECIPES] == ["cuda", "jetpack6", "jetpack7"]
    for recipe in RECIPES:
        done = lint(recipe.read_text(encoding="utf-8"))
        assert (done.returncode, done.stdout) == (0, ""), recipe
    good = (ROOT / "docker/cuda.Dockerfile").read_text(encoding="utf-8")
    for pattern, worse, rule in FAULTS:
        bad = re.sub(pattern, worse, good)
        assert bad != good, pattern
        done = lint(bad)
        assert done.returncode == 1, rule
        assert rule in done.stdout


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_installs_from_a_bundle_and_leaves_nothing_of_it(recipe: Path) -> None:
    lines = [line for line in recipe.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert "RUN --mount=type=bind,target=/bundle sh /bundle/install.sh /opt/dhox" in lines
    assert not [line for line in lines if line.startswith(("COPY", "ADD"))]
    assert lines[-5:-3] == ["ENV PATH=/opt/dhox/bin:$PATH", "USER 10001"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_the_documents_say_where_the_base_of_a_recipe_comes_from(recipe: Path) -> None:
    (base,) = re.findall("^FROM (.*)$", recipe.read_text(encoding="utf-8"), re.MULTILINE)
    page = (ROOT / "docs/offline.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| \[{recipe.stem}\].*`{re.escape(base)}`.*https://", page, re.MULTILINE)
