"""The shape of the package: which way imports run, what import costs, which names are public.

Run as a script (`make api`), this file rewrites public_api.txt.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "advphotoz"
GOLDEN = ROOT / "tests" / "public_api.txt"

# A module may import what lies in a lower layer; "" is the front door, advphotoz/__init__.py.
# Edges within a layer are listed one by one, so that no noun learns of another unnoticed.
LAYERS = {
    "helpers": 0,
    "nouns": 1,
    "attacks": 2,
    "certify": 3,
    "training": 3,
    "evaluation": 3,
    "survey": 4,
    "plotting": 5,
    "html_report": 6,
    "": 7,
    "command": 8,
    "__main__": 9,
    "testing": 8,  # outside, like a user: it must know every public name to evaluate a repr
}
NOUNS = {
    "batch",
    "datasets",
    "distributed",
    "memory",
    "metrics",
    "mixed_precision",
    "models",
    "objectives",
    "perturbations",
    "provenance",
    "redshift",
}
NOUN_EDGES = {("objectives", "redshift"), ("metrics", "redshift")}
OPTIONAL = [
    "lightning",
    "pyarrow",
    "art",
    "astropy",
    "dust_extinction",
    "foolbox",
    "galsim",
    "h5py",
    "jinja2",
    "matplotlib",
    "qp",
    "speclite",
]


def module_name(path: Path) -> str:
    """Turn src/advphotoz/attacks/pgd.py into advphotoz.attacks.pgd."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Path]:
    return {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(name: str, path: Path, known: set[str]) -> set[str]:
    """Return the modules of the package that one of its modules imports, anywhere in the file.

    Imports under TYPE_CHECKING and inside functions count: they bind the layers all the same.
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join(parents[: len(parents) - node.level + 1] + base.split(".")).strip(
                    "."
                )
            # `from advphotoz.attacks import pgd` names a module, `import PGD` a thing inside one.
            found |= {
                f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base
                for alias in node.names
            }
    return {target for target in found if target.split(".")[0] == "advphotoz"}


def part(name: str) -> str:
    """Return the file or folder right under the package that a module belongs to."""
    return [*name.split("."), ""][1]


def layer(name: str) -> int:
    own = part(name)
    if own.startswith("_") and own not in LAYERS:
        return LAYERS["helpers"]
    if own in NOUNS:
        return LAYERS["nouns"]
    assert own in LAYERS, f"{name} has no layer: give it one in LAYERS or NOUNS of {__file__}"
    return LAYERS[own]


def wrong_imports(files: dict[str, Path]) -> list[str]:
    wrong = []
    for name, path in files.items():
        for target in sorted(imported(name, path, set(files))):
            here, there = layer(name), layer(target)
            siblings = part(name) == part(target) or here == there == LAYERS["helpers"]
            if there < here or siblings or (part(name), part(target)) in NOUN_EDGES:
                continue
            wrong.append(f"{name} imports {target}")
    return wrong


def public_api() -> str:
    """Return one line per public name: `__all__` of the package and of the modules right in it.

    What lies deeper (advphotoz.attacks.pgd) is where the code stands, not an address to import.
    """
    lines = []
    for name in modules():
        if part(name).startswith("_") or name.count(".") > 1:
            continue
        exported = getattr(importlib.import_module(name), "__all__", None)
        assert exported is not None, f"{name} has no __all__"
        lines += [f"{name}.{item}" for item in sorted(exported)]
    return "\n".join(lines) + "\n"


def test_every_module_has_a_layer() -> None:
    for name in modules():
        layer(name)


def test_imports_run_one_way() -> None:
    files = modules()
    assert files, f"no modules in {PACKAGE}"
    assert wrong_imports(files) == []


@pytest.mark.parametrize(
    "line",
    [
        "from advphotoz.training import AdversarialTrainer",
        "from advphotoz import evaluation",
        "import advphotoz.attacks.pgd",
        "from .attacks import FGSM",
        "from . import attacks",
        "from advphotoz import FGSM",
        "if TYPE_CHECKING:\n    from advphotoz.attacks import FGSM",
        "def f():\n    from .attacks.pgd import PGD",
        "from .metrics import bias",
    ],
)
def test_the_import_check_sees_every_way_to_break_it(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "SOURCE", tmp_path)
    package = tmp_path / "advphotoz"
    names = ["__init__", "metrics", "training", "evaluation", "perturbations", "attacks/__init__"]
    files = [package / f"{name}.py" for name in [*names, "attacks/pgd"]]
    (package / "attacks").mkdir(parents=True)
    for path in files:
        path.write_text("")
    (package / "perturbations.py").write_text(line + "\n")
    broken = wrong_imports({module_name(path): path for path in files})
    assert [text.split(" imports ")[0] for text in broken] == ["advphotoz.perturbations"]


def test_import_stays_light() -> None:
    # Beside what torch brings: no optional package, and not scipy, whose `stats` takes more than
    # half as long as torch. benchmarks/import_time.py measures the seconds.
    code = (
        "import sys, torch\nbefore = set(sys.modules)\n"
        "import advphotoz\nprint(*set(sys.modules) - before)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    new = set(ran.stdout.split())
    assert "advphotoz.attacks.pgd" in new
    packages = {name.split(".")[0] for name in new} - sys.stdlib_module_names
    assert packages <= {"advphotoz", "numpy", "torch", "tqdm", "typing_extensions"}
    assert not {"torch._dynamo", "torch._inductor"} & new  # what torch.compile needs


def test_every_public_module_imports_without_the_extras() -> None:
    # A None in sys.modules makes an import fail as if the package were not installed.
    names = [n for n in modules() if not any(p.startswith("_") for p in n.split("."))]
    code = (
        f"import sys, importlib\nsys.modules.update(dict.fromkeys({OPTIONAL!r}))\n"
        f"for name in {names!r}: importlib.import_module(name)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_public_names_are_the_listed_ones() -> None:
    listed = set(GOLDEN.read_text(encoding="utf-8").split())
    now = set(public_api().split())
    assert now == listed, (
        f"new: {sorted(now - listed)}; gone: {sorted(listed - now)}. "
        "If that is meant, run `make api` and commit tests/public_api.txt."
    )


def test_every_listed_name_exists() -> None:
    for name in public_api().split():
        module, _, item = name.rpartition(".")
        assert hasattr(importlib.import_module(module), item), name


def circles(files: dict[str, Path]) -> list[str]:
    """Return the modules that import each other in a circle, through however many others."""
    edges = {n: imported(n, p, set(files)) & set(files) for n, p in files.items()}
    waiting = dict(edges)
    while free := [name for name, targets in waiting.items() if not targets & waiting.keys()]:
        for name in free:
            del waiting[name]
    return sorted(waiting)


def test_no_circles_inside_a_package() -> None:
    assert circles(modules()) == []


def test_the_circle_check_sees_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SOURCE", tmp_path)
    package = tmp_path / "advphotoz"
    package.mkdir()
    for name, target in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")):
        line = f"from advphotoz.{target} import x\n"
        (package / f"{name}.py").write_text(line)
    files = {module_name(path): path for path in sorted(package.glob("*.py"))}
    assert circles(files) == [f"advphotoz.{name}" for name in "abcd"]


def test_no_private_file_beside_a_public_twin() -> None:
    twins = [p for p in modules().values() if p.name.startswith("_") and not p.stem.endswith("_")]
    assert [p for p in twins if p.with_name(p.name.lstrip("_")).exists()] == []


@pytest.mark.slow
def test_wheel_ships_types_and_licence_and_no_tests(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(tmp_path)]
    subprocess.run([*command, str(ROOT)], check=True)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "advphotoz/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"advphotoz"}
    [metadata] = [name for name in names if name.endswith(".dist-info/METADATA")]
    page = zipfile.ZipFile(wheel).read(metadata).decode().partition("\n\n")[2]
    assert page.startswith("# advphotoz\n")
    targets = re.findall(r"\]\(([^)]*)\)", page)
    assert targets
    assert [t for t in targets if not t.startswith(("https://", "#"))] == []  # nowhere on PyPI
    assert "advphotoz/html_report/template.html" in names
    shipped = {name for name in names if name.endswith(".py")}
    assert shipped == {str(path.relative_to(SOURCE)) for path in modules().values()}


if __name__ == "__main__":
    GOLDEN.write_text(public_api(), encoding="utf-8")
    print(f"{GOLDEN.relative_to(ROOT)}: {len(GOLDEN.read_text().split())} names")
