"""Sessions for nox: see CONTRIBUTING.md.

No session is pinned to a Python: each runs on the one that runs nox, unless ``--force-python``
says otherwise. Dependencies are the groups of pyproject.toml, read by nox itself, since an
installer's own ``--group`` needs a newer pip than some systems have.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "generated", "tests"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
CODE = ("trio_sched", "tests", "docs", "benchmarks", "noxfile.py")
PB = Path("trio_sched/etcd_shim/_pb")

# Those whose outcome depends on the version of etcd.
ETCD_TESTS = (
    *("etcd_shim", "host", "reaper", "cli/run/test_command.py", "test_control.py"),
    *("--ignore=tests/etcd_shim/channel", "--ignore=tests/host/test_soak.py"),
    "--ignore=tests/etcd_shim/test_soak_client.py",
)

# What flake8-async finds and ruff does not. Left out: 103 and 104, which ruff's BLE001 covers; 114
# and 200, which need settings; 122, which is about Trio before 0.27; 910 to 913, which cannot see
# that a callee always checkpoints; and those about other libraries.
ASYNC_RULES = (
    *(f"ASYNC{number}" for number in (101, 102, 106, 111, 112, 113, 118, 119, 120, 121, 123, 124)),
    *(f"ASYNC{number}" for number in (125, 126, 128, 231, 232, 400, 401, 900)),
)

# grpclib's stubs import a module of messages for each .proto that they read.
STAND_IN = '''\
"""Stands where protoc would put the descriptors of services.proto. Empty on purpose.

Written by ``nox -s generate``. ``services_grpc.py`` imports this module and uses nothing of it.
The real one would register ``etcdserverpb.*`` in protobuf's default pool, where another etcd client
in the same process may have registered its own: the second import of the two would then fail.
"""
'''

# Patterns of what the generators write, and what stands there instead. Type checkers are not left
# to guess the types of a stub's methods, nor those in a mapping that stands for a message. And
# `grpclib.client`, which brings asyncio, is for type checkers alone: see `_methods`. The bases of
# servers go, as we are none.
BASE = r"class \w+Base\(abc\.ABC\):\n(?:(?:    .*)?\n)+"
STUBS = {
    BASE: "",
    r"import abc\n": "",
    r"self\.(\w+) = (grpclib\.client)\.(\w+)"
    r"\((\n +channel,\n +'[^']+',\n +([\w.]+),\n +([\w.]+),)": (
        r"self.\1: \2.\3[\5, \6] = _methods.\3(\4"
    ),
    r"channel: (grpclib\.client\.Channel)": r"channel: '\1'",
    r"import grpclib\.client\nif typing\.TYPE_CHECKING:\n": (
        "if typing.TYPE_CHECKING:\n    import grpclib.client\n"
        "    import grpclib.client as _methods\n"
    ),
    r"    import grpclib\.server\n": (r"else:\n    from trio_sched.etcd_shim import _methods\n"),
}
MESSAGES = {r"(?<!as )\b_Mapping\b": "_Mapping[str, object]"}


def group(name: str) -> list[str]:
    """The requirements of a dependency group."""
    return list(nox.project.dependency_groups(PYPROJECT, name))


def lowest(requirement: str) -> str:
    """Return a requirement of the lowest version that this one admits."""
    return re.sub(r">=([\w.]+).*", r"==\1", requirement)


@nox.session
def tests(session: nox.Session) -> None:
    """The whole test suite, with coverage; arguments go to pytest."""
    session.install("-e", ".[cli]", *group("tests"))
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def soak(session: nox.Session) -> None:
    """Ten minutes of faults for hosts, and as many for a client; or ``-- SECONDS [SEED]``.

    Do never more than max_count hosts run? And is each acknowledged write there once, and no watch
    with a gap? The client is behind HAProxy where that is.
    """
    session.install("-e", ".[cli]", *group("tests"))
    seconds = session.posargs[0] if session.posargs else "600"
    seed = session.posargs[1] if len(session.posargs) > 1 else ""
    environment = {"TRIO_SCHED_SOAK": seconds, "TRIO_SCHED_SEED": seed}
    for tests in ("tests/host/test_soak.py", "tests/etcd_shim/test_soak_client.py"):
        session.run("pytest", "-s", tests, env=environment)


@nox.session
def oldest(session: nox.Session) -> None:
    """The test suite on the oldest of all that pyproject.toml admits; arguments go to pytest."""
    project = PYPROJECT["project"]
    stated = [*project["dependencies"], *project["optional-dependencies"]["cli"], *group("tests")]
    session.install(*(lowest(requirement) for requirement in stated))
    session.install("--no-deps", "-e", ".")
    session.run("pytest", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """A million tapes for our HTTP/2 and h2, and a million steps for two etcds; ``-- N`` for fewer.

    One etcd is in memory, the other is real. N counts tens of thousands of each, which have a
    process of their own, as Hypothesis remembers what it tried.
    """
    session.install("-e", ".", *group("tests"))
    rounds, *arguments = session.posargs or ["100"]
    for seed in range(int(rounds)):
        session.log("round %d of %s", seed + 1, rounds)
        command = (
            "pytest",
            "-q",
            "tests/etcd_shim/channel/http2/test_fuzz.py",
            "tests/simulation/test_differential.py",
            f"--hypothesis-seed={seed}",
        )
        environment = {"TAPES": "10000", "STEPS": "10000"}
        session.run(*command, *arguments, env=environment, log=False)


@nox.session
def another_etcd(session: nox.Session) -> None:
    """The tests of what depends on etcd, against the one on PATH; skipped where there is none."""
    program = shutil.which("etcd")
    if program is None:
        session.skip("there is no etcd on PATH")
    session.install("-e", ".[cli]", *group("tests"))
    files = [name if name.startswith("-") else f"tests/{name}" for name in ETCD_TESTS]
    environment = {"TRIO_SCHED_ETCD": program}
    session.run("pytest", *(session.posargs or files), env=environment)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, layout, async rules, and which floor may import which."""
    session.install("-e", ".[cli]", *group("lint"))
    session.run("ruff", "check", *CODE)
    session.run("ruff", "format", "--check", *CODE)  # no prose: a README is laid out for reading
    files = [str(path) for path in _python_files()]
    session.log("flake8-async on %d files", len(files))
    session.run("flake8-async", f"--enable={','.join(ASYNC_RULES)}", *files, log=False)
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Run mypy --strict on everything, the tests too; and see that each public name has a type."""
    session.install("-e", ".[cli]", *group("types"))
    session.run("mypy", *session.posargs)
    program = Path(session.create_tmp()) / "readme.py"
    _, _, rest = Path("README.md").read_text().partition("```python\n")
    program.write_text(rest.partition("```")[0])
    session.run("mypy", "--strict", str(program))
    # It fails below 100 %. A newer pyright may ask for more, so its version is pinned.
    environment = {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    session.run("pyright", "--verifytypes", "trio_sched", "--ignoreexternal", env=environment)


@nox.session
def simulate(session: nox.Session) -> None:
    """Search simulated worlds for a minute of CPU, or ``-- SECONDS [SEED]``; each time others."""
    session.install("-e", ".")
    seconds, *seed = session.posargs or ["60"]
    arguments = [f"--seconds={seconds}", *(f"--seed={each}" for each in seed)]
    session.run("python", "-m", "trio_sched.simulation", *arguments)


@nox.session
def generate(session: nox.Session) -> None:
    """Write trio_sched/etcd_shim/_pb/ anew from protos/."""
    session.install(*group("codegen"))
    _generate(session, Path())


@nox.session
def generated(session: nox.Session) -> None:
    """Fail, with a diff, when _pb/ is not what protos/ gives."""
    session.install(*group("codegen"))
    folder = Path(session.create_tmp())
    shutil.rmtree(folder / "trio_sched", ignore_errors=True)
    _generate(session, folder)
    if difference := _difference(PB, folder / PB):
        session.log("%s", difference)
        session.error("_pb/ is not what protos/ gives: run `nox -s generate`")


@nox.session
def demo(session: nox.Session) -> None:
    """What `pip install '.[demo]' && trio-sched demo` shows; arguments go to the demo."""
    session.install(".[demo]")
    session.run("trio-sched", "demo", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error, and so is a name without a page."""
    session.install(".[cli,metrics,otel,testing]", *group("docs"))
    session.run("sphinx-build", "-nWEq", "--keep-going", "docs", "docs/_build")
    session.run("python", "-m", "tests.docs.site", "docs/_build")


@nox.session
def screenshots(session: nox.Session) -> None:
    """The pictures: those of the pages, of the demo, and of `trio-sched web` in a Chromium."""
    session.install("-e", ".[cli,demo]", *group("tests"))
    session.run("python", "-m", "tests.docs.pictures")
    session.run("trio-sched", "demo", "--svg", "docs/demo.svg")
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        session.skip("there is no Chromium on PATH")
    folder = Path(session.create_tmp())
    session.run("python", "-m", "tests.cli.web.screenshots", str(folder))
    shutil.copy(folder / "web.png", "docs/web.png")
    session.log("look at those in %s, too", folder)


@nox.session
def coexist(session: nox.Session) -> None:
    """Other etcd clients and ours live in one process, imported in any order."""
    # The versions of aetcd and etcd3aio decide what is shown here, so they are not left to chance.
    session.install("-e", ".", "aetcd==1.0.0", "etcd3aio==0.3.0")
    session.run("python", "tests/etcd_shim/coexistence/check.py")


@nox.session
def proxies(session: nox.Session) -> None:
    """The client behind HAProxy, nginx, nghttpx, stunnel and etcd's own; those that are there."""
    session.install("-e", ".[cli]", *group("tests"))
    for program in ("haproxy", "nginx", "nghttpx", "stunnel4"):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            session.warn("%s is not installed, so it is left out", program)
    session.run("pytest", "tests/etcd_shim/proxies", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """What our client costs, next to others.

    Or ``-- scheduling``, ``-- scale``, ``-- startup``, ``-- footprint``.
    """
    session.install("-e", ".", *group("bench"))
    script, *arguments = session.posargs or ["clients"]
    if script.startswith("-"):
        script, arguments = "clients", session.posargs
    session.run("python", f"benchmarks/{script}.py", *arguments)


def _generate(session: nox.Session, root: Path) -> None:
    """Run protoc, and put what it writes below ``root``."""
    (root / PB).mkdir(parents=True, exist_ok=True)
    session.run(
        "protoc",
        "--proto_path=protos",
        f"--python_out={root}",
        f"--pyi_out={root}",
        f"protos/{PB}/messages.proto",
    )
    session.run(
        "protoc",
        "--proto_path=protos",
        f"--grpclib_python_out={root}",
        f"protos/{PB}/services.proto",
    )
    (root / PB / "services_pb2.py").write_text(STAND_IN)
    _amend(root / PB / "services_grpc.py", STUBS)
    _amend(root / PB / "messages_pb2.pyi", MESSAGES)


def _amend(file: Path, amendments: Mapping[str, str]) -> None:
    """Replace patterns in what a generator has written."""
    text = file.read_text()
    for pattern, instead in amendments.items():
        text, count = re.subn(pattern, instead, text)
        assert count, f"{file}: there is no {pattern}"
    file.write_text(text)


def _difference(committed: Path, fresh: Path) -> str:
    """What differs between two folders of generated files; empty when nothing does."""
    names = {
        path.name for folder in (committed, fresh) for path in folder.iterdir() if path.is_file()
    }
    report: list[str] = []
    for name in sorted(names - {"__init__.py"}):  # the one file that is not generated
        sides = (committed / name, fresh / name)
        if absent := [str(side) for side in sides if not side.is_file()]:
            report += [f"missing: {absent[0]}\n"]
        else:
            old, new = (side.read_text().splitlines(keepends=True) for side in sides)
            report += difflib.unified_diff(old, new, f"committed/{name}", f"generated/{name}")
    return "".join(report)


def _python_files() -> list[Path]:
    roots = [Path(name) for name in CODE]
    files = (path for root in roots for path in (sorted(root.rglob("*.py")) or [root]))
    return [path for path in files if PB not in path.parents]
