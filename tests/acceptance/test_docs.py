"""What ``docs/`` and the README show is run: a reader may copy it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import import_path
from tests.harness.documents import blocks_of, check

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = {path.name: path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
# Prose about Redis itself, whose code are fragments.
NOT_RUN = ("guarantees.md", "interop.md", "protocol.md", "quorum.md", "servers.md")


def run(path: Path, url: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: a framework is set up once per process."""
    return subprocess.run(
        [sys.executable, "-m", "tests.harness.documents", str(path), url],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": import_path(*filter(None, [os.environ.get("PYTHONPATH")]))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name not in NOT_RUN])
def test_a_document_runs(name: str, redis_url: str, tmp_path: Path) -> None:
    done = run(DOCUMENTS[name], redis_url, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "never awaited" not in done.stderr, done.stderr


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_python(name: str) -> None:
    check(DOCUMENTS[name])


# --- the runner itself

TEXT = """\
# Title

```python
value = 1
async def later() -> int:
    return value + 1
```

Text. ```python is not a block here```.

```python
assert await later() == 2
```

```python file=pages.py
ADDRESS = "redis://localhost:6379/0"
```

- in a list

  ```python
  from pages import ADDRESS
  ```

```python no-run
return None
```

```console
$ not python
```

<!-- python
assert ADDRESS == {url!r}, ADDRESS
raise SystemExit({code})
-->
"""


@pytest.mark.slow
def test_blocks_run_in_order_and_one_namespace(tmp_path: Path) -> None:
    url = "redis://elsewhere/3"
    document = tmp_path / "some.md"
    document.write_text(TEXT.format(url=url, code=0))
    done = run(document, url, tmp_path)
    assert done.returncode == 0, done.stderr
    document.write_text(TEXT.format(url=url, code=3))
    assert run(document, url, tmp_path).returncode == 3
    document.write_text(TEXT.format(url="redis://other", code=0))
    failed = run(document, url, tmp_path)
    assert failed.returncode == 1
    assert '"some.md", line 34' in failed.stderr  # where the reader finds it


@pytest.mark.parametrize(
    "text", ["```python\nx = 1\n", "```python never\nx = 1\n```\n", "<!-- python\nx = 1\n", "```python\nx = =\n```"]
)
def test_a_document_with_a_mistake_in_it(text: str, tmp_path: Path) -> None:
    document = tmp_path / "some.md"
    document.write_text(text)
    with pytest.raises((ValueError, SyntaxError)):
        check(document)


def test_lines_and_words() -> None:
    first, second, third, fourth, fifth, hidden = blocks_of(TEXT)
    assert first.line == 4
    assert (second.module, third.module) == (None, "pages.py")
    assert fourth.code == "from pages import ADDRESS"
    assert [block.runs for block in (first, fifth, hidden)] == [True, False, True]
