"""Settings of every face: each is known and documented, an unknown one or a bad value is told by its own name."""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flask
import pytest
import quart
from aiohttp import web
from litestar.middleware.session.server_side import ServerSideSessionConfig

import sessionlock
from sessionlock import ConfigurationError, SessionGuard
from sessionlock.integrations import flask as flask_face
from sessionlock.integrations import litestar as litestar_face
from sessionlock.integrations import quart as quart_face
from sessionlock.integrations.aiohttp import middleware as aiohttp_face
from sessionlock.integrations.asgi import middleware as asgi_face
from sessionlock.integrations.settings import ALL, OPTIONS, checked, names_of, unknown_names
from sessionlock.integrations.settings.options import FaceOptions, check_options
from tests.integrations.settings.__main__ import document
from tests.integrations.settings.parts import ENVIRONMENT, FRAMEWORK, PARTS, field_names

URL = "redis://localhost:1/0"
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "settings.md"
SOURCES = Path(sessionlock.__file__).parent


# What Litestar's other configurations have, too; told among the frameworks' own.
LITESTARS = {name for name in inspect.signature(ServerSideSessionConfig).parameters} & set(
    ", ".join(FRAMEWORK["Litestar"]).split(", ")
)


def options_of(made: Callable[..., Any]) -> set[str]:
    """``**options`` are those of :class:`.FaceOptions`, by their type."""
    names = set()
    for name, parameter in inspect.signature(made).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            assert parameter.annotation == "Unpack[FaceOptions]"
            names |= set(FaceOptions.__annotations__)
        else:
            names.add(name)
    return names - {"app", "guard", "guard_or_url"} - (LITESTARS if made is litestar_face.SessionLockConfig else set())


def of_face(face: str) -> set[str]:
    return {setting.name for setting in ALL if face in setting.faces and setting.name != "url"}


# --- one table


def test_the_document_is_what_the_code_has() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), (
        "run: python -m tests.integrations.settings docs/settings.md"
    )


@pytest.mark.parametrize(
    ("face", "made"),
    [
        ("asgi", asgi_face.SessionLockMiddleware),
        ("aiohttp", aiohttp_face.setup),
        ("litestar", litestar_face.SessionLockConfig),
        ("config", flask_face.SessionLock),
        ("config", quart_face.SessionLock),
    ],
)
def test_each_option_of_a_face_is_in_the_table_and_the_other_way_round(face: str, made: Callable[..., Any]) -> None:
    assert options_of(made) == of_face(face)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.made.__name__)
def test_each_option_of_the_core_is_in_the_table(part: Any) -> None:
    assert set(field_names(part)) == set(part.fields)


def test_each_variable_of_the_environment_is_in_the_table() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCES.rglob("*.py") if path.parent.name != "settings")
    words = {word.strip("\"'`,.:;)(=") for word in text.replace("=", " ").split()}
    assert {word for word in words if word.startswith("SESSIONLOCK_") and word.isupper()} == set(ENVIRONMENT)


# --- names


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("SESSION_LOCK_WIAT", "SESSION_LOCK_WAIT"),
        ("SESSION_LOCK_QUICKLY", "There are"),
        ("SESSION_LOCKS_MODE", "SESSION_LOCK_MODE"),
        ("SESSIONLOCK_LEASE", "SESSION_LOCK_LEASE"),
        ("SESSION_LOCK_BODYLIMIT", "SESSION_LOCK_BODY_LIMIT"),
    ],
)
def test_an_unknown_setting_names_the_nearest_one(wrong: str, meant: str) -> None:
    assert meant in unknown_names([wrong, "SESSION_LOCK_WAIT", "SESSION_COOKIE_NAME", "SECRET_KEY"], "config")[wrong]
    assert unknown_names(names_of("django"), "django") == {}


def test_settings_of_one_face_are_unknown_in_another() -> None:
    assert set(unknown_names(["SESSION_LOCK_GRACE"], "config")) == {"SESSION_LOCK_GRACE"}


def flask_app(**config: Any) -> flask.Flask:
    app = flask.Flask("here")
    app.config.update({"SESSION_LOCK_URL": URL, **config})
    flask_face.SessionLock(app)
    return app


def quart_app(**config: Any) -> quart.Quart:
    app = quart.Quart("here")
    app.config.update({"SESSION_LOCK_URL": URL, **config})
    quart_face.SessionLock(app)
    return app


@pytest.mark.parametrize("made", [flask_app, quart_app])
def test_flask_and_quart_name_a_setting_that_does_not_exist(made: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"no setting SESSION_LOCK_WIAT\. Did you mean SESSION_LOCK_WAIT"):
        made(SESSION_LOCK_WIAT=3)


BAD: dict[str, list[Any]] = {
    "SESSION_LOCK_URL": ["http://example.org", 3, "redis://[::1", "redis+sentinel://host", "localhost"],
    "SESSION_LOCK_MODE": ["locked", "LOCK", 1],
    "SESSION_LOCK_WAIT": ["3", -1, True],
    "SESSION_LOCK_LEASE": ["10", 0, False],
    "SESSION_LOCK_SAVE_ON_ERROR": ["no", 1],
    "SESSION_LOCK_BODY_LIMIT": [-1, 1.5, "1M"],
    "SESSION_LOCK_ON_CONFLICT": ["retry", True],
    "SESSION_LOCK_IDENTITY": ["user_id", [1]],
    "SESSION_LOCK_ROUTES": [["/a"], {"a": "lock"}, {"/a": "locked"}],
    "SESSION_LOCK_PROBLEMS": [{}, 409],
}


@pytest.mark.parametrize("made", [flask_app, quart_app])
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_flask_and_quart_name_the_setting_whose_value_makes_no_sense(
    made: Callable[..., Any], name: str, value: object
) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name}") as caught:
        made(**{name: value})
    assert "Policy." not in str(caught.value)


def test_a_url_is_never_shown() -> None:
    with pytest.raises(ConfigurationError, match="SESSION_LOCK_URL") as caught:
        flask_app(SESSION_LOCK_URL="http://user:secret@example.org")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("face", [flask_face, quart_face])
def test_an_argument_is_told_by_its_name(face: Any) -> None:
    framework: Any = flask.Flask if face is flask_face else quart.Quart
    with pytest.raises(ConfigurationError, match=r"^wait must be"):
        face.SessionLock(framework("here"), URL, wait="3")
    with pytest.raises(ConfigurationError, match=r"^url"):
        face.SessionLock(framework("here"), "http://nowhere")


@pytest.mark.parametrize(
    "face",
    [
        lambda **said: asgi_face.SessionLockMiddleware(nobody, URL, **said),
        lambda **said: aiohttp_face.setup(web.Application(), URL, **said),
        lambda **said: litestar_face.SessionLockConfig(URL, **said),
    ],
    ids=["asgi", "aiohttp", "litestar"],
)
def test_an_argument_that_makes_no_sense_is_told_by_its_name(face: Callable[..., Any]) -> None:
    face(lease=3, wait=0.5, identity=["who"])
    for name, value in {"lease": "3", "wait": "1", "identity": "who", "save_on_error": "no", "problems": 409}.items():
        with pytest.raises(ConfigurationError, match=f"^{name} must be"):
            face(**{name: value})


@pytest.mark.parametrize(
    "face",
    [
        lambda **said: flask_face.SessionLock(None, URL, **said),
        lambda **said: quart_face.SessionLock(None, URL, **said),
        lambda **said: asgi_face.SessionLockMiddleware(nobody, URL, **said),
        lambda **said: aiohttp_face.setup(web.Application(), URL, **said),
        lambda **said: litestar_face.SessionLockConfig(URL, **said),
    ],
    ids=["flask", "quart", "asgi", "aiohttp", "litestar"],
)
def test_an_argument_that_does_not_exist_is_an_error(face: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="wiat"):
        face(wiat=3)


async def nobody(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError


def test_each_bad_value_is_one_and_each_good_one_is_none() -> None:
    good: dict[str, list[Any]] = {
        "url": [URL, "embedded://", "redis+cluster://a:1,b:2", SessionGuard.from_url(URL)],
        "wait": [0, 3, 0.5, sessionlock.WaitPolicy()],
        "lease": [10, sessionlock.LeasePolicy()],
        "identity": [(), ["user"], {"a", "b"}],
        "routes": [{}, {"GET /a/*": "read"}],
        "save_on_error": [True, False],
        "body_limit": [0, 1],
        "merge": [{"a": "append", "b": max}],
        "absolute": [3600],
        "grace": [0, 30],
        "cookie": ["sid"],
        "mode": ["auto", "lock", "off"],
    }
    for name, values in good.items():
        for value in values:
            assert checked(name, value) is value
    for name, value in {"merge": {"a": "apend"}, "absolute": "1h", "grace": -1, "cookie": "a b", "options": []}.items():
        with pytest.raises(ConfigurationError, match=f"^{name}"):
            checked(name, value)
    assert all(checked(name, None) is None for name in OPTIONS)


def test_options_of_the_guard() -> None:
    check_options("HERE", {"prefix": "shop", "retry_for": 1, "quorum": None})
    with pytest.raises(ConfigurationError, match=r"HERE: there is no option 'prefx'\. Did you mean prefix"):
        check_options("HERE", {"prefx": "shop"})
    with pytest.raises(ConfigurationError, match="HERE: push_limit"):
        check_options("HERE", {"push_limit": "1M"})
    with pytest.raises(ConfigurationError, match="HERE: quorum"):
        check_options("HERE", {"quorum": [URL]})


# --- when it is said


def test_what_comes_into_the_configuration_too_late_is_told_once(
    caplog: pytest.LogCaptureFixture, redis_url: str
) -> None:
    app = flask.Flask("here")
    app.config["SESSION_LOCK_MODE"] = "lock"
    flask_face.SessionLock(app)
    app.config.update(SESSION_LOCK_URL=redis_url, SESSION_LOCK_WAIT=1)

    @app.get("/")
    def page() -> str:
        return str(len(flask.session))

    with caplog.at_level(logging.ERROR, "sessionlock"):
        assert [app.test_client().get("/").text for _ in range(2)] == ["0", "0"]
    (told,) = caplog.messages
    assert told.startswith("SESSION_LOCK_WAIT came into app.config after SessionLock(app)")


def test_one_extension_for_two_applications_mixes_nothing_up(caplog: pytest.LogCaptureFixture, redis_url: str) -> None:
    extension = flask_face.SessionLock()
    apps = [flask.Flask("one"), flask.Flask("two")]
    for wait, app in enumerate(apps, 1):
        app.config.update(SESSION_LOCK_URL=redis_url, SESSION_LOCK_WAIT=wait)
        extension.init_app(app)

        @app.get("/")
        def page() -> str:
            return str(len(flask.session))

    with caplog.at_level(logging.ERROR, "sessionlock"):
        assert [app.test_client().get("/").text for app in apps] == ["0", "0"]
    assert caplog.messages == []


@pytest.mark.parametrize("made", [flask_app, quart_app])
def test_what_another_package_left_behind_is_named(made: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    made(SESSION_COOKIE_SECURE=True, SESSION_TIMEOUT_HINT=5, SESSION_COOKIE_PARTITIONED=True)
    assert caplog.messages == []
    made(SESSION_TYPE="redis", SESSION_REDIS=None, SESSION_COOKIE_SAME_SITE="Lax")
    (told,) = caplog.messages
    assert told.endswith(": SESSION_COOKIE_SAME_SITE, SESSION_REDIS, SESSION_TYPE")


@pytest.mark.parametrize("face", ["flask", "quart"])
@pytest.mark.parametrize("option", [{"cookie": "n"}, {"url": "memory://"}, {"guard": "memory://"}, {"mod": "lock"}])
def test_an_option_that_would_have_no_effect(face: str, option: dict[str, str]) -> None:
    """The store is named once, and the cookie by the application's own settings."""
    module = importlib.import_module(f"sessionlock.integrations.{face}")
    with pytest.raises(TypeError, match=r"option|twice"):
        module.SessionLock(None, "memory://", **option)
