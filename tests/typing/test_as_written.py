"""What type checkers say of an application that uses the package, and of what the package tells them itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sessionlock

pytestmark = pytest.mark.server

HERE = Path(__file__).parent
FILES = [str(HERE / name) for name in ("as_written.py", "wrong.py")]
STRICT = {
    "include": FILES,
    "typeCheckingMode": "strict",
    "enableTypeIgnoreComments": True,
    "reportUnnecessaryTypeIgnoreComment": "error",
}
HELP = """{count} names are not wholly typed, or not alike for all type checkers. Give them an annotation:
`self.x: float = x`, `log: logging.Logger = …`, `def f(a: int) -> str`. What only follows from these is not shown.
{names}"""


# Django itself is not typed.
OF_DJANGO = ("Type of metaclass unknown", "Type of base class unknown")


def checker(module: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    # An editable install is found by a hook, which type checkers do not run.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    found = {**os.environ, "PATH": path, "PYTHONPATH": str(Path(sessionlock.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-m", module, *words], cwd=cwd, env=found, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_mypy(tmp_path: Path) -> None:
    """An ignored line that is no error is one: what is wrong must be seen to be wrong."""
    done = checker("mypy", "--strict", "--python-version=3.10", "--cache-dir", str(tmp_path), *FILES, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_pyright(tmp_path: Path) -> None:
    pytest.importorskip("basedpyright")
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(STRICT))
    done = checker("basedpyright", "--pythonpath", sys.executable, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("0 errors"), done.stdout


@pytest.mark.slow
def test_everything_that_can_be_imported_is_typed(tmp_path: Path) -> None:
    """``py.typed`` promises it: no type checker has to guess, and none guesses otherwise than another."""
    pytest.importorskip("basedpyright")
    done = checker("basedpyright", "--verifytypes", "sessionlock", "--ignoreexternal", "--outputjson", cwd=tmp_path)
    untyped = [
        f"  {symbol['name']}: {' '.join(told['message'].split())}"
        for symbol in json.loads(done.stdout)["typeCompleteness"]["symbols"]
        if symbol["isExported"] and not (symbol["isTypeKnown"] and not symbol["isTypeAmbiguous"])
        for told in symbol["diagnostics"]
        if told["severity"] == "error"
        and "artially unknown" not in told["message"]
        and not (symbol["name"].startswith("sessionlock.integrations.django.") and told["message"] in OF_DJANGO)
    ]
    assert not untyped, HELP.format(count=len(untyped), names="\n".join(untyped))
