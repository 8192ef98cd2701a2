# SPDX-License-Identifier: MIT
"""Every way of installing: the suite passes on the wheel, on the sdist and on vendored copies."""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
FILES = ["LICENSE", "Makefile", "README.md", "pyproject.toml"]
FOLDERS = ["benchmarks", "eventbus", "tests"]

# Runs the suite on a package that was copied there, other copies having been imported before.
RUN_VENDORED = """
import importlib, sys
import pytest

*others, package = sys.argv[1:]
copies = [importlib.import_module(name) for name in others]
status = pytest.main(["-q", "-p", "no:cacheprovider"])
copies.append(sys.modules[package])
assert len({copy.EventBus for copy in copies}) == len(copies)
assert "eventbus" not in sys.modules
sys.exit(status)
"""

# Has two copies refuse each other's events, and deliver their own, from within each other.
SIDE_BY_SIDE = """
import asyncio, importlib, sys

here, there = map(importlib.import_module, sys.argv[1:])
Here, There = type("Here", (here.Event,), {}), type("There", (there.Event,), {})
delivered, refused = [], []

async def main():
    async with here.EventBus() as bus, there.EventBus() as other:
        async def pass_on(event):
            await other.publish(There())
            other.publish_nowait(There())

        bus.subscribe(Here, pass_on)
        bus.subscribe(Here, delivered.append)
        other.subscribe(There, delivered.append)
        await bus.publish(Here())
        await other.join()
        for attempt in (
            lambda: bus.publish_nowait(There()),
            lambda: other.publish_nowait(Here()),
            lambda: bus.subscribe(There, print),
            lambda: other.on(Here),
        ):
            try:
                attempt()
            except TypeError as error:
                refused.append("subclass of Event" in str(error))

asyncio.run(main())
assert sorted(type(event).__name__ for event in delivered) == ["Here", "There", "There"]
assert refused == [True] * 4
assert "eventbus" not in sys.modules
"""


def run(*command, cwd, **environment):
    """Run a command, expect it to succeed, and return what it prints."""
    inherited = {name: os.environ[name] for name in os.environ if not name.startswith("PYTHON")}
    result = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**inherited, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the sdist and of the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, cwd=PROJECT)
    return folder


@pytest.fixture(params=["*.whl", "*.tar.gz"], ids=["wheel", "sdist"])
def distribution(request, built):
    (found,) = built.glob(request.param)
    return found


@pytest.fixture
def project(built, tmp_path):
    """The project as its sdist holds it."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # since 3.11.4
        archive.extractall(tmp_path)
    (folder,) = tmp_path.iterdir()
    return folder


def files(folder):
    """Return the names of the files below, caches left out."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = (path.relative_to(folder) for path in paths)
    return {name.as_posix() for name in names if "__pycache__" not in name.parts}


def vendor(project, *packages):
    """Move the package to where these names import copies of it."""
    for package in packages:
        copy = shutil.copytree(project / "eventbus", project.joinpath(*package.split(".")))
        while (copy := copy.parent) != project:
            (copy / "__init__.py").touch()
    shutil.rmtree(project / "eventbus")


def test_sdist_holds_the_project(project):
    """Package, tests, benchmarks, Makefile and papers are in the sdist, and nothing else."""
    expected = {f"{name}/{file}" for name in FOLDERS for file in files(PROJECT / name)}
    assert files(project) == expected | {*FILES, "PKG-INFO"}


def test_wheel_holds_the_package(built):
    """The package is in the wheel with its marker for type checkers and its licence, no tests."""
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    metadata = {name for name in names if ".dist-info/" in name}
    assert names - metadata == {f"eventbus/{file}" for file in files(PROJECT / "eventbus")}
    assert {"eventbus/py.typed", "eventbus/LICENSE"} <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in metadata)


def test_suite_on_the_installed_package(distribution, project, tmp_path):
    """What is built is installed into a fresh environment, and passes there."""
    shutil.rmtree(project / "eventbus")
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    (python,) = environment.glob("*/python")
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", python, "install"]
    run(*pip, distribution, "--group", "dev", cwd=project)
    place = run(python, "-c", "import eventbus; print(eventbus.__file__)", cwd=project)
    assert Path(place).is_relative_to(environment)
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=project)


@pytest.mark.parametrize(
    "packages",
    [["host._vendor.eventbus"], ["host._vendor.eventbus", "courier"]],
    ids=["in a host", "under another name, beside another copy"],
)
def test_suite_on_a_vendored_copy(packages, project):
    """A copied folder passes under any name, and nothing that is named `eventbus` is imported."""
    vendor(project, *packages)
    code = [sys.executable, "-c", RUN_VENDORED]
    run(*code, *packages, cwd=project, EVENTBUS_PACKAGE=packages[-1])


def test_two_copies_in_one_process(project):
    """Two copies work from within each other, and each refuses the other's event types."""
    packages = ["host._vendor.eventbus", "guest._vendor.eventbus"]
    vendor(project, *packages)
    run(sys.executable, "-W", "error", "-c", SIDE_BY_SIDE, *packages, cwd=project)
