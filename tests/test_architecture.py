"""Rules of the layout: who may import whom, what stays free of torch, and that documents tell the truth about files."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
STAGES = ("distill", "export", "bench")
ROOTS = {"dhox": "src/dhox"} | {f"dhox.{stage}": stage for stage in STAGES}
TOP = {"dhox.cli", "dhox.reports", "dhox.doctor", "dhox.demo", "dhox.__main__"}
LAYERS = ("shared", *STAGES, "top")
HEAVY = ("torch", "onnx", "tensorrt", "tensorrt_rtx", "matplotlib", "torchvision", "timm", "open_clip")

# What a board needs, in one process where every training library is missing.
BOARD = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ImportError("not on this board: " + name)
sys.meta_path.insert(0, Missing())
from dhox.cli.main import main
main(sys.argv[1:])
"""


# `dhox retune EXPORT` alone needs onnx there.
BOARD_WITH_ONNX = BOARD.replace("'onnx', ", "")


def modules() -> dict[str, Path]:
    found = {}
    for root, folder in ROOTS.items():
        for path in (ROOT / folder).rglob("*.py"):
            name = ".".join((root, *path.relative_to(ROOT / folder).with_suffix("").parts))
            found[name.removesuffix(".__init__")] = path
    return found


def layer(module: str) -> int:
    if any(module == top or module.startswith(f"{top}.") for top in TOP):
        return LAYERS.index("top")
    part = module.split(".")[1] if "." in module else ""
    return LAYERS.index(part) if part in LAYERS else 0


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == "dhox"}


def test_imports_point_one_way() -> None:
    known = modules()
    assert len(known) > 40
    wrong = [
        f"{module} imports {name}"
        for module, path in known.items()
        for name in imported(path) & known.keys()
        if layer(name) > layer(module) and not (module == "dhox" or layer(module) == LAYERS.index("top"))
    ]
    assert wrong == []


def loaded_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys, json; print('\\n' + json.dumps(sorted(sys.modules)))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_help_loads_nothing_heavy() -> None:
    loaded = loaded_after(
        "from dhox.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0"
    )
    assert not loaded & {*HEAVY, "numpy", "PIL", "onnxruntime"}


def test_the_board_part_imports_without_torch() -> None:
    loaded = loaded_after(
        "import dhox.bench.run, dhox.models.classifier, dhox.doctor.examine, dhox.data.dataset, dhox.reports.pages.bench, dhox.reports.pages.predictions, dhox.models.verify, dhox.export.integrations.emit, dhox.serve.app, dhox.serve.run, dhox.labelling.run, dhox.labelling.app\n"
        "import dhox.export.engines.engine, dhox.models.engines, dhox.reports.pages.export; import dhox; dhox.load\n"
        "import dhox.bench.drift.run, dhox.reports.pages.drift"
    )
    assert not loaded & set(HEAVY)


def test_bench_predict_and_doctor_run_where_torch_is_missing(own_line: Path) -> None:
    def board(*arguments: str) -> str:
        done = subprocess.run([sys.executable, "-c", BOARD, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    export = str(own_line / "runs/tiny/export")
    assert "passed" in board("bench", export, "--device", "cpu", "--duration", "0.05", "--energy", "0", "--batch", "1")
    assert all(row["passed"] for row in json.loads(board("verify", export, "--json"))["checks"])
    assert "given" in board("retune", str(own_line / "runs/tiny"), "--alpha", "0.5", "--beta", "1")
    retuned = subprocess.run(
        [sys.executable, "-c", BOARD_WITH_ONNX, "retune", export, "--alpha", "0.5", "--beta", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "-> 0.5" in retuned.stdout, retuned.stderr
    assert "Accuracy is estimated" in board("drift", export, str(own_line / "data/test"), "--out", "drift")
    image = next((own_line / "data/test/bag").iterdir())
    assert json.loads(board("predict", export, str(image), "--json"))[0]["path"] == str(image)
    doctor = {finding["what"]: finding["works"] for finding in json.loads(board("doctor", "--json"))}
    assert not next(works for what, works in doctor.items() if what.startswith("torch "))
    assert next(works for what, works in doctor.items() if "CPUExecutionProvider" in what)


def test_packages_of_the_project_file_are_the_folders() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = re.search(r"^packages = \[(.*?)^\]$", text, re.MULTILINE | re.DOTALL)
    assert packages is not None
    folders = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert set(re.findall(r'"([^"]+)"', packages[1])) == folders
    assert {path.parent for path in modules().values()} == {modules()[name].parent for name in folders}


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_map_names_every_module_with_its_first_line() -> None:
    write_map = script("write_map")
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert page == write_map.page_with_map(), "run: python scripts/write_map.py"
    for path in modules().values():
        assert path.name == "__init__.py" or f" {path.name} " in page
        assert write_map.first_line(path), path


def test_the_front_page_is_short_and_names_every_folder() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    tree = text[text.index("## Folders") :].split("```")[1]
    told = {line.split()[0].rstrip("/") for line in tree.strip().splitlines()}
    shared = {path.parent.name for path in (ROOT / "src/dhox").glob("*/__init__.py")}
    top = {"distill", "export", "bench", "src/dhox", "tests", "benchmarks", "recipes", "docs", "docker", "scripts"}
    assert told == shared | top


@pytest.mark.parametrize(
    "document", sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
)
def test_links_and_commands_of_documents_exist(document: str) -> None:
    from typer.main import get_command

    from dhox.cli.main import app

    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]*)?\)", text):
        if "://" not in target:
            assert (ROOT / document).parent.joinpath(target).exists(), target
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for line in re.findall(r"^ {4}dhox (.*)$", text.replace("\\\n", " "), re.MULTILINE):
        words = line.split("#")[0].split()
        assert words[0] in commands or words[0].startswith("-"), line
        known = (
            {
                option
                for parameter in commands[words[0]].params
                for option in [*parameter.opts, *parameter.secondary_opts]
            }
            if words[0] in commands
            else {"--help", "--version"}
        )
        assert {word for word in words if word.startswith("--")} <= known | {"--help"}, line
