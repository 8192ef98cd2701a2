# SPDX-License-Identifier: MIT
"""The package as such: its face, its files, and that a copied folder works anywhere."""

import ast
import importlib
import inspect
import json
import pkgutil
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
from target import PACKAGE, package

FOLDER = Path(package.__file__).parent
# Where `import` finds the package, whose name may have dots.
ROOT = FOLDER.parents[PACKAGE.count(".")]
SOURCES = sorted(FOLDER.rglob("*.py"))
SUBMODULES = [module.name for module in pkgutil.walk_packages([str(FOLDER)])]
PUBLIC_MODULES = [PACKAGE, *(f"{PACKAGE}.{name}" for name in SUBMODULES if name[0] != "_")]
# Younger than the oldest interpreter supported, which does not know its name.
STANDARD_LIBRARY = {*sys.stdlib_module_names, "annotationlib"}

each_source = pytest.mark.parametrize(
    "source", SOURCES, ids=lambda source: str(source.relative_to(FOLDER))
)


def run_python(code, *arguments):
    """Run `code` in an interpreter of its own, warnings being errors; return what it prints."""
    command = [sys.executable, "-I", "-W", "error", "-c", code, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def strings_outside_docstrings(tree):
    """Return the string constants of a module, parts of f-strings included."""
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings.add(node.value)
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings
    ]


def test_sources_are_found():
    """The tests below look at the whole package, and at nothing else."""
    assert FOLDER / "__init__.py" in SOURCES
    assert len(SOURCES) > 5
    assert ROOT.joinpath(*PACKAGE.split(".")) == FOLDER


def test_all_is_what_is_public():
    """`__all__` names every public object of the package, sorted, and nothing else."""
    public = {
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert set(package.__all__) == public
    assert package.__all__ == sorted(package.__all__)
    assert isinstance(package.__all__, list)


def test_face_is_the_design():
    """The package offers the names that its users were promised."""
    assert package.__all__ == [
        "Event",
        "EventBus",
        "EventCycleError",
        "Handler",
        "HandlerFailure",
        "Publisher",
        "Subscription",
    ]


def test_all_and_version_are_literals():
    """Tools read `__all__` and `__version__` without running the code."""
    tree = ast.parse((FOLDER / "__init__.py").read_text("utf-8"))
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
    }
    assert values == {"__all__": package.__all__, "__version__": package.__version__}
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", package.__version__)


@each_source
def test_licence_line(source):
    """Every file says what its licence is, since files are copied one by one, too."""
    assert "# SPDX-License-Identifier: MIT\n" in source.read_text("utf-8")[:300]


@each_source
def test_module_docstring(source):
    """Every module says what it is for."""
    assert ast.get_docstring(ast.parse(source.read_text("utf-8")))


@each_source
def test_imports(source):
    """Modules import each other relatively, and otherwise the standard library alone."""
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        else:
            continue
        for name in names:
            assert name.partition(".")[0] in STANDARD_LIBRARY, f"line {node.lineno}: {name}"


@each_source
def test_neither_metadata_nor_data_is_read(source):
    """A copied folder has no metadata, and nothing that has to be found beside the code."""
    readers = {"metadata", "pkgutil", "resources"}
    places = {"__file__", "__loader__", "__path__", "__spec__"}
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        names = {getattr(node, name, None) for name in ("id", "attr")} & places
        if isinstance(node, ast.ImportFrom):
            names |= readers & {*(node.module or "").split("."), *(a.name for a in node.names)}
        elif isinstance(node, ast.Import):
            names |= readers & {part for alias in node.names for part in alias.name.split(".")}
        assert not names, f"line {node.lineno}: {names}"


@each_source
def test_own_name_is_not_written(source):
    """No string holds the package's name, which is another one in a copied folder."""
    own_name = re.compile(rf"\b{FOLDER.name}\b")
    for node in strings_outside_docstrings(ast.parse(source.read_text("utf-8"))):
        assert not own_name.search(node.value), f"line {node.lineno}: {node.value!r}"


@each_source
def test_docstrings_do_not_import_by_name(source):
    """No docstring shows an import that fails where the folder has another name."""
    statement = re.compile(rf"^\W*(import|from)\s+{FOLDER.name}\b", re.MULTILINE)
    assert not statement.search(source.read_text("utf-8"))


def test_files_beside_the_code():
    """The folder carries its licence and the marker for type checkers, and no other data."""
    assert (FOLDER / "py.typed").read_bytes() == b""
    assert "MIT License" in (FOLDER / "LICENSE").read_text("utf-8")
    files = {path.name for path in FOLDER.iterdir() if path.is_file() and path.suffix != ".py"}
    assert files == {"LICENSE", "py.typed"}


def test_both_licences_are_equal():
    """The folder's licence is that of the project."""
    licence = Path(__file__).parent.parent / "LICENSE"
    if not licence.exists():
        pytest.skip("these tests were copied without the project around them")
    assert licence.read_bytes() == (FOLDER / "LICENSE").read_bytes()


def test_import_has_no_side_effects():
    """Importing the package, submodules included, loads the standard library and changes nothing.

    No handler or level is set on any logger, no warning filter, no thread, no event loop policy.
    """
    code = """
import asyncio, importlib, json, logging, signal, sys, threading, warnings

def state():
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    return {
        "logging": [
            f"{logger.name} {logger.handlers} {logger.level} {logger.filters} {logger.propagate}"
            for logger in loggers
            if isinstance(logger, logging.Logger)
            and (logger.handlers or logger.level or logger.filters or not logger.propagate)
        ],
        "path": list(sys.path),
        "hooks": [repr(hook) for hook in (sys.excepthook, sys.unraisablehook, sys.displayhook)],
        "import": [repr(finder) for finder in sys.meta_path + sys.path_hooks],
        "filters": repr(warnings.filters),
        "threads": threading.active_count(),
        "signals": [repr(signal.getsignal(number)) for number in signal.valid_signals()],
        "recursion": sys.getrecursionlimit(),
        "tracing": repr((sys.gettrace(), sys.getprofile())),
    }

root, *names = sys.argv[1:]
sys.path.insert(0, root)
modules, before = set(sys.modules), state()
for name in names:
    importlib.import_module(name)
after = state()
print(json.dumps({
    "modules": sorted(set(sys.modules) - modules),
    "changed": [name for name in before if before[name] != after[name]],
}))
"""
    found = run_python(code, ROOT, *PUBLIC_MODULES)
    assert found["changed"] == []
    own = {PACKAGE.rsplit(".", count)[0] for count in range(PACKAGE.count(".") + 1)}
    foreign = {
        name
        for name in found["modules"]
        if name.partition(".")[0] not in STANDARD_LIBRARY
        and name not in own
        and not name.startswith(f"{PACKAGE}.")
    }
    assert foreign == set()
    assert set(PUBLIC_MODULES) <= set(found["modules"])


def test_import_of_the_face_is_lean():
    """Importing the package alone imports neither its public submodules nor its command line."""
    code = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
importlib.import_module(sys.argv[2])
print(json.dumps(sorted(sys.modules)))
"""
    loaded = set(run_python(code, ROOT, PACKAGE))
    assert PACKAGE in loaded
    assert not loaded & {*PUBLIC_MODULES[1:], f"{PACKAGE}.__main__", "argparse"}


def documented():
    """Yield the name and value of whatever is public: objects, and the methods of classes."""
    for module_name in PUBLIC_MODULES:
        module = importlib.import_module(module_name)
        for name, value in sorted(vars(module).items()):
            home = getattr(value, "__module__", "")
            if name.startswith("_") or not (home == PACKAGE or home.startswith(f"{PACKAGE}.")):
                continue
            if not isinstance(value, type | types.FunctionType):
                continue
            yield f"{module_name}.{name}", value
            for member in dir(value) if isinstance(value, type) else ():
                attribute = inspect.getattr_static(value, member)
                if not member.startswith("_") and (
                    isinstance(
                        attribute, types.FunctionType | property | classmethod | staticmethod
                    )
                ):
                    yield f"{module_name}.{name}.{member}", attribute


def test_public_objects_are_found():
    """The test below looks at classes, methods, inherited ones and properties."""
    names = {name.removeprefix(f"{PACKAGE}.") for name, _ in documented()}
    assert {"Event", "EventBus", "EventBus.publish", "EventBus.pending"} <= names
    assert {"Subscription.cancel", "Publisher.publish", "Handler.location"} <= names


@pytest.mark.parametrize("value", [pytest.param(value, id=name) for name, value in documented()])
def test_docstring(value):
    """Every public object and method has a docstring of its own, which starts with a sentence."""
    docstring = value.__doc__
    assert docstring
    assert docstring.split("\n\n")[0].rstrip().endswith((".", "::"))


def test_options_are_keyword_only():
    """Options are keyword-only, so that another one can be added anywhere."""
    parameters = list(inspect.signature(package.EventBus).parameters.values())
    assert parameters
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)


def copy_folder(root, *names):
    """Copy the folder to where `root` makes it importable by these names, joined by dots."""
    copy = root.joinpath(*names)
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("__pycache__"))
    while (copy := copy.parent) != root:
        (copy / "__init__.py").touch()


def test_copied_folder_works(tmp_path):
    """A copy under another name delivers, fails and logs under that name, the original unseen."""
    code = """
import asyncio, importlib, json, logging, sys
sys.path.insert(0, sys.argv[1])
import another.place.copied as copy

records = []

class Keep(logging.Handler):
    def emit(self, record):
        records.append([record.name, record.levelname])

logging.getLogger().addHandler(Keep())

class OrderPlaced(copy.Event):
    pass

async def main():
    seen, failures = [], []
    async with copy.EventBus(on_error=failures.append) as bus:
        async def handle(event):
            seen.append("async")
            raise LookupError
        bus.subscribe(OrderPlaced, handle)
        bus.subscribe(OrderPlaced, lambda event: seen.append("sync"))
        future = bus.wait_for(OrderPlaced)
        await bus.publish(OrderPlaced())
        await future
        async with bus.deferred() as events:
            events.publish_nowait(OrderPlaced())
    return seen, len(failures)

seen, failures = asyncio.run(main())
for name in sys.argv[3:]:
    importlib.import_module(f"{copy.__name__}.{name}")
original = [name for name in sys.modules if (name + ".").startswith(sys.argv[2] + ".")]
print(json.dumps({
    "seen": seen, "failures": failures, "records": records, "original": original,
    "module": copy.EventBus.__module__.rpartition(".")[0],
}))
"""
    public = [name for name in SUBMODULES if name[0] != "_"]
    copy_folder(tmp_path, "another", "place", "copied")
    found = run_python(code, tmp_path, PACKAGE, *public)
    assert sorted(found["seen"]) == ["async", "async", "sync", "sync"]
    assert found["failures"] == 2
    assert found["records"] == [["another.place.copied", "ERROR"]] * 2
    assert found["original"] == []
    assert found["module"] == "another.place.copied"


def test_two_copies_share_nothing(tmp_path):
    """The original and a copy in one process know nothing of each other's events and chains."""
    code = """
import asyncio, importlib, json, logging, sys
logging.disable()
sys.path[:0] = sys.argv[1:3]
original = importlib.import_module(sys.argv[3])
copy = importlib.import_module("another_copy")

class Ours(original.Event):
    pass

class Theirs(copy.Event):
    pass

async def main():
    failures, refused = [], []
    bus = original.EventBus(max_depth=1)
    other = copy.EventBus(max_depth=1, on_error=failures.append)
    async def ours(event):
        await other.publish(Theirs())
    def theirs(event):
        raise LookupError
    bus.subscribe(Ours, ours)
    other.subscribe(Theirs, theirs)
    await bus.publish(Ours())
    for publisher, event in ((bus, Theirs()), (other, Ours())):
        try:
            await publisher.publish(event)
        except TypeError:
            refused.append(type(event).__name__)
    return [[kind.__name__ for kind in failure.chain] for failure in failures], refused

print(json.dumps(asyncio.run(main())))
"""
    copy_folder(tmp_path, "another_copy")
    assert run_python(code, ROOT, tmp_path, PACKAGE) == [[["Theirs"]], ["Theirs", "Ours"]]
