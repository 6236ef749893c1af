"""Mutation checks: breaks one line of the package at a time, and names the broken lines that no test notices.

    python -m tests.mutation record                         # once: which test runs which line, and how long each test takes
    python -m tests.mutation run --count 60 --seed 0        # draws mutants, tests each, goes on where it was interrupted
    python -m tests.mutation run --count 20 spaces flows/*  # of some modules only

`record` runs the suite under coverage and writes to the folder `--out`. `run` works in copies of the tree. For each mutant it runs the
tests that ran the mutant's line, fastest first, then the other tests of the same files (a compiled program is traced once in a file,
so a later test that runs it records no lines) and those that start processes of their own (whose lines are not recorded), and stops at
the first failure. It appends each outcome to `outcomes.jsonl`. A mutant is
the source with one operator, number, name, order of arguments or statement changed.
"""

import argparse
import ast
import concurrent.futures
import fnmatch
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = (
    "_internal/blocks", "_internal/random", "_internal/collectives", "energies/base", "energies/shallow", "measures",
    "geometry", "spaces", "flows/*", "methods/dual", "methods/jarzynski", "training/simulate", "training/run", "sweeps/engine",
    "training/run_folder", "training/checkpoints", "energies/files", "_internal/files", "log_z/*", "duality_gap",
)  # fmt: skip
OPERATORS = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "/", ast.Mod: "//", ast.Pow: "*",
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==", ast.Is: "is not", ast.IsNot: "is",
    ast.In: "not in", ast.NotIn: "in", ast.And: "or", ast.Or: "and", ast.BitAnd: "|", ast.BitOr: "&",
}  # fmt: skip
NAMES = {
    "minimum": "maximum", "maximum": "minimum", "min": "max", "max": "min", "sum": "mean", "mean": "sum", "any": "all", "all": "any",
    "sin": "cos", "cos": "sin", "exp": "expm1", "log": "log1p", "log1p": "log", "expm1": "exp", "zeros": "ones", "ones": "zeros",
    "zeros_like": "ones_like", "ones_like": "zeros_like", "floor": "ceil", "ceil": "floor", "argmin": "argmax", "argmax": "argmin",
}  # fmt: skip


# ---- mutants ---------------------------------------------------------------------------------------


def replacements(node):
    """(the node that is replaced, its new text) for each way to break a node."""
    text = ast.unparse
    if isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in OPERATORS:
        new = OPERATORS[type(node.op)]
        if isinstance(node, ast.BinOp):
            yield node, f"({text(node.left)}) {new} ({text(node.right)})"
        else:
            yield node, f"{text(node.target)} {new}= {text(node.value)}"
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield node, f"({text(node.left)}) {OPERATORS[type(node.ops[0])]} ({text(node.comparators[0])})"
    elif isinstance(node, ast.BoolOp):
        yield node, f" {OPERATORS[type(node.op)]} ".join(f"({text(value)})" for value in node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield node, f"({text(node.operand)})"
    elif isinstance(node, ast.IfExp):
        yield node, f"({text(node.orelse)} if {text(node.test)} else {text(node.body)})"
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield node, str(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield node, str(node.value + 1 if isinstance(node.value, int) else 2 * node.value or 1.0)
    elif isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield node, f"{text(node.value)}.{NAMES[node.attr]}"
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield node, "pass"
    elif isinstance(node, ast.Call) and len(node.args) == 2 and text(node.func).startswith(("jnp.", "np.", "jax.lax.", "math.")):
        first, second, *named = node.args[0], node.args[1], *node.keywords
        swapped = [text(second), text(first), *(f"{k.arg}={text(k.value)}" if k.arg else f"**{text(k.value)}" for k in named)]
        yield node, f"{text(node.func)}({', '.join(swapped)})"


def walk(node, lines):
    """(node, lines of its statement) of what runs: no annotations, no docstrings."""
    if isinstance(node, ast.stmt):
        body = getattr(node, "body", None)
        last = body[0].lineno - 1 if isinstance(body, list) else node.end_lineno
        lines = (node.lineno, max(node.lineno, last))
    yield node, lines
    for name, field in ast.iter_fields(node):
        if name in ("annotation", "returns", "ctx") or isinstance(node, ast.JoinedStr):  # of text there are no positions
            continue
        for child in field if isinstance(field, list) else [field]:
            if isinstance(child, ast.AST):
                yield from walk(child, lines)


def mutants(path: Path):
    """All mutants of a file, in order: where, what is there, what is put in its place."""
    source = path.read_text()
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node, (first, last) in walk(ast.parse(source), (1, 1)):
        for at, new in replacements(node):
            start, stop = starts[at.lineno - 1] + at.col_offset, starts[at.end_lineno - 1] + at.end_col_offset
            old = source.encode()[start:stop].decode()
            name = path.relative_to(ROOT).as_posix()
            yield dict(file=name, line=at.lineno, lines=[first, last], start=start, stop=stop, old=old, new=new)


def drawn(patterns, count, seed):
    """Mutants without replacement, files equally likely, those of a file too."""
    files = [p for p in sorted((ROOT / "dualebm").rglob("*.py")) if any(matches(p, pattern) for pattern in patterns)]
    rng = random.Random(seed)
    left = {path: list(mutants(path)) for path in files}
    for made in left.values():
        rng.shuffle(made)
    found = []
    while len(found) < count and any(left.values()):
        found.append(left[rng.choice([path for path in files if left[path]])].pop())
    return found


def matches(path, pattern):
    """Whether a module of the package is meant: `spaces`, `flows/*`."""
    return fnmatch.fnmatch(path.relative_to(ROOT / "dualebm").with_suffix("").as_posix(), pattern)


# ---- the record: the command, and a plugin of pytest --------------------------------------------------

RECORDING = "MUTATION_SECONDS"
RUNS = ([], ["tests/optimised"])
"""The arguments of the runs that guard the package."""

paths, seconds_of = [None], defaultdict(float)


def pytest_runtest_setup(item):
    """While recording, programs compiled in one file do not serve the next: each file traces its own."""
    if RECORDING in os.environ and item.path != paths[0]:
        import jax

        jax.clear_caches()
        paths[0] = item.path


def pytest_runtest_logreport(report):
    """Seconds of each test."""
    seconds_of[report.nodeid] += report.duration


def pytest_sessionfinish(session):
    """Written by the process that hears of all workers."""
    if RECORDING in os.environ and not hasattr(session.config, "workerinput"):
        path = Path(os.environ[RECORDING])
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**known, **seconds_of}))


def record(out: Path) -> int:
    """Runs the suite once; every test must pass."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("seconds.json", "coverage"):
        (out / name).unlink(missing_ok=True)
    environment = dict(os.environ, COVERAGE_FILE=str(out / "coverage")) | {RECORDING: str(out / "seconds.json")}
    options = ["--cov=dualebm", "--cov-branch", "--cov-context=test", "--cov-append", "--dist=loadfile", "-p", "tests.mutation"]
    for arguments in RUNS:
        done = subprocess.run([sys.executable, "-m", "pytest", *options, *arguments], cwd=ROOT, env=environment)
        if done.returncode:
            return done.returncode
    return 0


def tests_by_line(out: Path):
    """(file -> line -> tests that ran it, test -> seconds)."""
    from coverage import CoverageData

    data = CoverageData(str(out / "coverage"))
    data.read()
    seconds = json.loads((out / "seconds.json").read_text())
    lines = {}
    for name in data.measured_files():
        contexts = data.contexts_by_lineno(name)
        tests = {line: {c.rpartition("|")[0] for c in found} & seconds.keys() for line, found in contexts.items()}
        lines[Path(name).relative_to(ROOT).as_posix()] = tests
    return lines, seconds


# ---- the tests of a mutant --------------------------------------------------------------------------


def with_children(root: Path) -> set[str]:
    """Files whose tests start processes, in which no line is recorded."""
    return {p.relative_to(root).as_posix() for p in (root / "tests/package").glob("test_*.py") if "tests.children" in p.read_text()}


def in_order(mutant, lines, seconds, unseen=frozenset()):
    """The tests to run, fastest first, in groups that each compile in one way: those that ran the line, then the others of their files.

    unseen: files that are run in any case.
    """
    ran = lines.get(mutant["file"], {})
    first, last = mutant["lines"]
    near = set().union(*(ran.get(line, set()) for line in range(first, last + 1)))
    if not near:  # it runs at import
        near = set().union(*ran.values())
    files = {test.split("::")[0] for test in near} | unseen
    rest = {test for test in seconds if test.split("::")[0] in files} - near
    for tests in (near, rest):
        for optimised in (False, True):
            yield sorted((t for t in tests if t.startswith("tests/optimised/") == optimised), key=lambda t: seconds[t])


def tests_on(tests, copy: Path, environment, limit):
    """The finished process, or None where it took longer than the limit."""
    (copy / "tests.txt").write_text("\n".join(tests))
    options = ["-x", "-n0", "--dist=no", "--tb=line", "-rf", "-p", "no:cacheprovider", "@tests.txt"]
    command = [sys.executable, "-m", "pytest", *options]
    try:
        return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return None


def outcome_of(mutant, copy: Path, lines, seconds, programs: Path, patience):
    """The outcome: "caught" and by what, "timeout", "survived", or "not run" where no test runs the line."""
    path = copy / mutant["file"]
    source = path.read_bytes()
    path.write_bytes(source[: mutant["start"]] + mutant["new"].encode() + source[mutant["stop"] :])
    environment = dict(
        os.environ, PYTHONPATH=str(copy), PYTHONDONTWRITEBYTECODE="1", TF_CPP_MIN_LOG_LEVEL="3",
        JAX_COMPILATION_CACHE_DIR=str(programs), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES="none",
    )  # fmt: skip
    count = 0
    try:
        for tests in filter(None, in_order(mutant, lines, seconds, with_children(ROOT))):
            limit = 120 + patience * sum(seconds[test] for test in tests)
            done = tests_on(tests, copy, environment, limit)
            if done and done.returncode == pytest.ExitCode.USAGE_ERROR:  # a case is named after what is broken: all cases of its test
                done = tests_on(sorted({test.split("[")[0] for test in tests}), copy, environment, limit)
            if done is None:
                return {"outcome": "timeout"}
            if done.returncode:
                words = (done.stdout + done.stderr).splitlines()
                failed = [line for line in words if line.startswith(("FAILED", "ERROR", "E  "))] or words[-1:]
                return {"outcome": "caught", "by": failed[-1][:300]}
            count += len(tests)
        return {"outcome": "survived" if count else "not run", "tests": count}
    finally:
        path.write_bytes(source)


def run(out: Path, patterns, count, seed, jobs, patience) -> int:
    """Tests the mutants that have no outcome yet, and prints those that survive."""
    print(f"seed {seed}: {count} mutants of {', '.join(patterns)}")
    lines, seconds = tests_by_line(out)
    log = out / "outcomes.jsonl"
    key = lambda m: (m["file"], m["start"], m["stop"], m["old"], m["new"])  # noqa: E731
    known = {key(m): m for m in map(json.loads, log.read_text().splitlines())} if log.exists() else {}
    todo = drawn(patterns, count, seed)
    copies, lock = [], threading.Lock()
    for i in range(jobs):
        copies.append(out / f"copy{i}")
        shutil.rmtree(copies[-1], ignore_errors=True)
        ignore = shutil.ignore_patterns(".git", ".venv", "results", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, copies[-1], ignore=ignore)

    def one(mutant):
        if key(mutant) in known:
            return known[key(mutant)]
        with lock:
            copy = copies.pop()
        try:
            result = mutant | outcome_of(mutant, copy, lines, seconds, out / "programs", patience)
        finally:
            with lock:
                copies.append(copy)
        with lock, log.open("a") as file:
            file.write(json.dumps(result) + "\n")
            print(f"{result['outcome']:9} {result['file']}:{result['line']}  {result['old']!r} -> {result['new']!r}", flush=True)
        return result

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(one, todo))
    alive = [r for r in results if r["outcome"] in ("survived", "not run")]
    print(f"{len(results) - len(alive)} of {len(results)} caught")
    for result in alive:
        print(f"{result['outcome']}: {result['file']}:{result['line']}  {result['old']!r} -> {result['new']!r}")
    return bool(alive)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("record", "run"):
        command = commands.add_parser(name)
        command.add_argument("--out", type=Path, default=ROOT / "results/mutation", help="folder of the record and the outcomes")
    command.add_argument("modules", nargs="*", default=CORE, help="files of dualebm/ without .py, * allowed; the core where none")
    command.add_argument("--count", type=int, default=60, help="mutants to draw")
    command.add_argument("--seed", type=int, default=0, help="of the draw")
    command.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    command.add_argument("--patience", type=float, default=5, help="a test that takes so many times its seconds, and two minutes, hangs")
    given = parser.parse_args()
    out = given.out.resolve()
    if given.command == "record":
        return record(out)
    return run(out, given.modules, given.count, given.seed, given.jobs, given.patience)


if __name__ == "__main__":
    sys.exit(main())
