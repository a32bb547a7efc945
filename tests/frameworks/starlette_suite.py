"""Runs Starlette's own tests of its session middleware on ours: which of them fail?

Its wheels do not carry the tests and they are not copied here, so the source archive is an argument::

    pip download --no-deps --no-binary :all: starlette
    python tests/frameworks/starlette_suite.py starlette-*.tar.gz

They run on asyncio (redis-py's), with Starlette's middleware and then with ours, whose options are made of the same
arguments, and whose cookie's attributes are spelled as Starlette does.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from sessionlock.embedded import EmbeddedServer

ROOT = Path(__file__).resolve().parents[2]
TESTS = Path("tests/middleware/test_session.py")
OURS = TESTS.with_name("test_ours.py")
# What they mean by these is not to be had: a session that has ended as it begins (Max-Age 0 and below).
NOT_MEANT = {"test_session_expires", "test_session_zero_max_age"}

SHIM = """
import os
from sessionlock import SessionGuard, SessionPolicy
from sessionlock.integrations.asgi import SessionLockMiddleware
from sessionlock.integrations.web import CookieSettings

class SessionMiddleware(SessionLockMiddleware):
    def __init__(self, app, secret_key, session_cookie="session", max_age=1209600, path="/", same_site="lax",
                 https_only=False, domain=None, partitioned=False):
        policy = SessionPolicy(idle=max_age or 1209600)
        cookie = CookieSettings(session_cookie, max_age=max_age or None, path=path, samesite=same_site,
                                secure=https_only, domain=domain, partitioned=partitioned)
        super().__init__(app, SessionGuard.from_url(os.environ["STORE"], session=policy), cookie=cookie)

    async def __call__(self, scope, receive, send):
        async def spelled(message):
            if message["type"] == "http.response.start":
                message["headers"] = [(name, as_starlette(value) if name == b"set-cookie" else value)
                                      for name, value in message["headers"]]
            await send(message)
        await super().__call__(scope, receive, spelled if scope["type"] == "http" else send)

def as_starlette(cookie):
    first, *attributes = cookie.decode().split("; ")
    return "; ".join([first, *(a if a.startswith("Max-Age") else a.lower() for a in attributes)]).encode()
"""


def adapted(text: str) -> str:
    """Their tests, with our middleware."""
    return text.replace(
        "import Session, SessionMiddleware\n", "import Session\nfrom tests.shim import SessionMiddleware\n"
    )


def run(folder: Path, file: Path, store: str) -> dict[str, bool]:
    """Each test's name, and whether it passed."""
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=."]
    environment = {**os.environ, "STORE": store, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [*command, "-k", "not trio", str(file)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.findall(r"^(PASSED|FAILED|ERROR) \S+?::(\S+)", done.stdout, re.MULTILINE)
    if not found:
        raise SystemExit(done.stdout + done.stderr)
    return {name: how == "PASSED" for how, name in found}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("archive", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, EmbeddedServer() as server:
        with tarfile.open(asked.archive) as archive:
            archive.extractall(place, filter="data")
        (folder,) = Path(place).iterdir()
        (folder / "tests/shim.py").write_text(SHIM)
        (folder / OURS).write_text(adapted((folder / TESTS).read_text()))
        base, ours = run(folder, TESTS, server.url), run(folder, OURS, server.url)
    failed = {name for name, passed in ours.items() if not passed and base.get(name, False)}
    meant = {name for name in failed if name.split("[")[0] not in NOT_MEANT}
    print(f"Starlette's: {sum(base.values())} of {len(base)}; ours: {sum(ours.values())} of {len(ours)}")
    for name in sorted(failed):
        print(f"  {name}{'' if name in meant else ' (not meant)'}")
    return 1 if meant else 0


if __name__ == "__main__":
    sys.exit(main())
