"""The rules that keep the code readable and the processes apart, proved from the source."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from tests.source import ROOT, imports, modules, nodes, reaches, within

LAYERS = (
    ("api.errors", "api.settings"),
    ("api.spec",),
    ("api.estimate",),
    ("api.infra", "api.records"),
    ("api.context",),
    ("api.services",),
    ("api.schemas",),
    ("api.http",),
    ("api.background",),
    ("api.batch_worker", "api.eval_worker", "api.routes"),
    ("api.dashboard",),
    ("api.main",),
    ("api.cli",),
)
"""From the bottom up. A module imports its own package and the layers below it."""

CHILDREN = tuple(
    f"worker.{program}"
    for program in (
        "convert",
        "evaluate",
        "grade",
        "prepare",
        "preview",
        "sample",
        "scan",
        "score_files",
        "train",
    )
)
"""The programs behind the wall."""

BEHIND_THE_WALL = ("api.errors", "api.spec", "api.estimate")
"""The packages of the API that a child process may load."""

HEAVY = {"torch", "transformers", "peft", "accelerate", "bitsandbytes", "pyarrow"}

STATEMENTS = {"select", "insert", "update", "delete", "text"}

SECRET_BEARING = {"sqlalchemy", "psycopg", "celery", "kombu", "redis", "obstore"}


def _layer(module: str) -> int:
    found = [height for height, packages in enumerate(LAYERS) if within(module, packages)]
    assert found, f"{module} is in no layer: the top of api/ holds main, settings, context and errors only"
    return found[0]


def _package(module: str) -> str:
    return ".".join(module.split(".")[:2])


def _calls(name: str) -> list[tuple[str, ast.Call]]:
    """Every call in the project of something whose last name this is."""
    return [
        (module, node)
        for module in modules()
        for node in nodes(module)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == name
    ]


def test_imports_go_down_only() -> None:
    """The reader of a module needs to know only what is below it."""
    for module in modules():
        for imported in imports(module):
            if module.startswith("api.") and imported.startswith("api.") and _package(imported) != _package(module):
                assert _layer(imported) < _layer(module), f"{module} imports {imported}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    """A package's `__init__` lists its entries; they import its other modules, never the list."""
    TopologicalSorter({module: imports(module) & modules().keys() for module in modules()}).prepare()


def test_routes_reach_data_through_services_only() -> None:
    """A route says who, what, where to. What it decided itself could only be tested through HTTP."""
    data = ("api.records", "api.infra.storage", "api.infra.doorbell")
    for module in modules():
        if within(module, ("api.routes",)):
            assert not {name for name in imports(module) if within(name, data)}, module


def test_services_know_nothing_of_http() -> None:
    """The command line and the tests use them too."""
    for module in modules():
        if within(module, ("api.services",)):
            http = {name for name in imports(module) if within(name, ("fastapi", "starlette", "api.infra.multipart"))}
            assert not http, f"{module} imports {http}"


def test_the_api_imports_no_worker_and_nothing_that_imports_torch() -> None:
    """It starts in a second, fits in 150 MB, and its image holds no gigabytes of CUDA."""
    for module in modules():
        if module.startswith("api"):
            found = {name.partition(".")[0] for name in imports(module)}
            assert not found & {*HEAVY, "worker"}, f"{module} imports {found & {*HEAVY, 'worker'}}"


def test_workers_import_of_the_api_what_is_not_http() -> None:
    """A worker does a service's work on its own side of the queue: it shares the records, not the decisions. Judges are
    asked by one service only, because their tokens have one budget."""
    for module in modules():
        if module.startswith("worker"):
            above = [
                name
                for name in imports(module)
                if name.startswith("api.")
                and _layer(name) > _layer("api.context")
                and (module, name) != ("worker.supervisor.judging", "api.services.judges")
            ]
            assert not above, f"{module} imports {above}"


def test_the_supervisor_imports_nothing_that_imports_torch() -> None:
    """It must answer, renew leases and end a trainer at once, whatever torch does."""
    assert not reaches("worker.app") & HEAVY


@pytest.mark.parametrize("child", CHILDREN)
def test_children_see_no_database_no_storage_and_no_settings(child: str) -> None:
    """They read rows and models that strangers sent. What they cannot name they cannot give away."""
    reached = reaches(child)
    beyond = {name for name in reached if name.startswith("api.") and not within(name, BEHIND_THE_WALL)}
    assert not beyond, f"{child} reaches {beyond}"
    assert not reached & SECRET_BEARING, f"{child} reaches {reached & SECRET_BEARING}"


def test_statements_are_built_in_records_only() -> None:
    """Then every query is found in one folder, and so is the scope by project that each of them needs."""
    found = {
        module: builders
        for module in modules()
        if not within(module, ("api.records", "migrations"))
        and (builders := {name for node in nodes(module) for name in _from_sqlalchemy(node)} & STATEMENTS)
    }
    assert not found


SLOW = ("patterns", "storage", "doorbell", "previews", "run_preview", "predict", "require_room", "require_patterns")
"""Calls that take as long as a user, a storage or a broker makes them take."""


def test_nothing_slow_happens_while_a_session_is_open() -> None:
    """A transaction holds locks that other projects wait for, and a session holds a connection."""
    for module in modules():
        for block in nodes(module):
            if isinstance(block, ast.With) and any(_opens_a_session(item.context_expr) for item in block.items):
                calls = [node.func for line in block.body for node in ast.walk(line) if isinstance(node, ast.Call)]
                slow = [name for call in calls if set((name := ast.unparse(call)).split(".")) & set(SLOW)]
                assert not slow, f"{module}, line {block.lineno}: {slow} before the session ends"


def _opens_a_session(expression: ast.expr) -> bool:
    return ast.unparse(expression).endswith((".database.read()", ".database.write()"))


def _from_sqlalchemy(node: ast.AST) -> set[str]:
    if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "sqlalchemy":
        return {alias.name for alias in node.names}
    return set()


def test_importing_both_processes_leaves_torch_and_alembic_out() -> None:
    """The same as a running process sees it: what others import on our behalf counts as well."""
    code = "import sys, api.main, worker.app; print(*(name for name in sys.modules if '.' not in name))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {*HEAVY, "alembic"}


def test_each_method_has_its_twin_behind_the_wall() -> None:
    """One side says what may be asked for, the other does it: neither is of use alone."""
    asked, done = (
        {path.stem for path in (ROOT / side).glob("*.py")} for side in ("api/spec/methods", "worker/methods")
    )
    assert asked - {"__init__", "base"} == done - {"__init__", "base"}


def test_code_that_comes_with_a_model_is_never_run() -> None:
    """`trust_remote_code` may only be a literal False: None, a variable or a default have all been ways in."""
    for module in modules():
        for node in nodes(module):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant), f"{module}: trust_remote_code is not a literal"
                assert node.value.value is False, f"{module}: trust_remote_code is not False"


def test_nothing_is_unpickled() -> None:
    """Loading a pickle runs what is in it."""
    runs_code = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for module in modules():
        assert not {name.partition(".")[0] for name in imports(module)} & runs_code, module
    loads = [module for module, call in _calls("load") if ast.unparse(call.func) == "torch.load"]
    assert not loads, f"torch.load unpickles: {loads} should read safetensors"
    for module, call in _calls("load"):
        assert not any(keyword.arg == "allow_pickle" for keyword in call.keywords), module


def test_no_shell_is_started() -> None:
    """A name with a semicolon in it is then just a name."""
    for module in modules():
        for node in nodes(module):
            assert not (isinstance(node, ast.keyword) and node.arg == "shell"), f"{module}: shell="
            if isinstance(node, ast.Attribute) and node.attr in {"system", "popen"}:
                assert ast.unparse(node) not in {"os.system", "os.popen"}, module


@pytest.mark.parametrize(("folder", "most"), [("api", 8), ("worker/engine", 15)])
def test_the_top_of_a_folder_stays_small(folder: str, most: int) -> None:
    """Who looks for something reads these names first: what belongs together gets a wing of its own."""
    names = sorted(path.name for path in (ROOT / folder).glob("*.py"))
    assert 0 < len(names) <= most, names


def test_migrations_form_one_line() -> None:
    """Two migrations after the same one leave Alembic without a newest schema."""
    files = sorted((ROOT / "migrations" / "versions").glob("[0-9]*.py"))
    texts = [path.read_text() for path in files]
    numbers = [f"{number:04}" for number in range(1, len(files) + 1)]
    assert [path.name[:4] for path in files] == numbers
    assert all(f'\nrevision = "{number}"\n' in text for number, text in zip(numbers, texts, strict=True))
    lines = zip(numbers, texts[1:], strict=False)
    assert all(f'\ndown_revision = "{number}"\n' in text for number, text in lines)
