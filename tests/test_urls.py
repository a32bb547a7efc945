"""URLs: every spelling comes to the client that it means, and a wrong one to an error that names what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis, RedisCluster, SSLConnection

from sessionlock import ConfigurationError
from sessionlock.urls import client_from_url

SCHEMES = {
    "redis": "redis://h/0",
    "rediss": "rediss://h",
    "unix": "unix:///run/redis.sock",
    "redis+sentinel": "redis+sentinel://h/mymaster",
    "rediss+sentinel": "rediss+sentinel://h/mymaster/0",
    "redis+cluster": "redis+cluster://h",
    "rediss+cluster": "rediss+cluster://h/0",
}


def connection(url: str) -> Any:
    """As the client would open it."""
    client = client_from_url(url)
    if isinstance(client, RedisCluster):
        node = next(iter(client.nodes_manager.startup_nodes.values()))
        return node.connection_class(**node.connection_kwargs)
    assert isinstance(client, Redis)
    pool: Any = client.connection_pool
    return pool.make_connection()


def sentinels(url: str) -> list[dict[str, Any]]:
    pool: Any = client_from_url(url).connection_pool
    return [asked.connection_pool.connection_kwargs for asked in pool.sentinel_manager.sentinels]


def nodes(url: str) -> set[tuple[str, int]]:
    return {(node.host, int(node.port)) for node in client_from_url(url).nodes_manager.startup_nodes.values()}


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis://", ("localhost", 6379, 0)),
        ("redis://h", ("h", 6379, 0)),
        ("REDIS://h/", ("h", 6379, 0)),
        ("redis://:6390/2", ("localhost", 6390, 2)),
        ("redis://h:6390/2?socket_timeout=3", ("h", 6390, 2)),
        ("redis://h?db=3", ("h", 6379, 3)),
        ("redis://h?", ("h", 6379, 0)),
        ("redis://[::1]:6390/1", ("::1", 6390, 1)),
        ("redis://[fe80::1%25eth0]", ("fe80::1%eth0", 6379, 0)),
        ("rediss://h:6390/1?ssl_ca_certs=/etc/ssl/ca.pem", ("h", 6390, 1)),
    ],
)
def test_one_server(url: str, where: tuple[str, int, int]) -> None:
    made = connection(url)
    assert (made.host, made.port, made.db) == where
    assert isinstance(made, SSLConnection) == url.startswith("rediss")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("credentials", "user", "password"),
    [
        ("user:p%40ss%2Fw%3A%3F%23%5B%5D%25", "user", "p@ss/w:?#[]%"),
        (":p%20w", None, "p w"),
        ("us%3Aer:x", "us:er", "x"),
        ("user:a@b", "user", "a@b"),  # not escaped, but there is only one way to read it
    ],
)
def test_credentials(scheme: str, credentials: str, user: str | None, password: str) -> None:
    made = connection(SCHEMES[scheme].replace("://", f"://{credentials}@"))
    assert (made.username, made.password) == (user, password)


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis+cluster://h:7000?ssl_ca_certs=x", None),
        ("rediss+cluster://h:7000?ssl_ca_certs=/etc/ssl/ca.pem", {("h", 7000)}),
        ("rediss+cluster://h:7000/?ssl_ca_certs=/etc/ssl/ca.pem", {("h", 7000)}),
        ("rediss+cluster://h:7000/0?ssl_ca_certs=/etc/ssl/ca.pem", {("h", 7000)}),
        ("redis+cluster://a:7000,b,c:7002", {("a", 7000), ("b", 6379), ("c", 7002)}),
        ("redis+cluster://u:p@a:7000, b:7001/", {("a", 7000), ("b", 7001)}),
        ("redis+cluster://[::1]:7000,[::2]", {("::1", 7000), ("::2", 6379)}),
        ("redis+cluster://a:7000,[::2]:7001,c", {("a", 7000), ("::2", 7001), ("c", 6379)}),
    ],
)
def test_nodes_of_a_cluster(url: str, where: set[tuple[str, int]] | None) -> None:
    if where is None:
        with pytest.raises(ConfigurationError, match="ssl_ca_certs is for TLS"):
            client_from_url(url)
        return
    assert nodes(url) == where
    assert client_from_url(url).connection_kwargs.get("ssl_ca_certs") == (
        "/etc/ssl/ca.pem" if "ssl_ca_certs" in url else None
    )


def test_sentinels_and_their_own_password() -> None:
    url = (
        "rediss+sentinel://app:p%40ss@a,b:26380,[::3]/my%20master/2"
        "?sentinel_username=watch&sentinel_password=w%26tch&ssl_ca_certs=/ca.pem&sentinel_socket_timeout=0.25"
        "&min_other_sentinels=1&force_master_ip=10.0.0.1&check_connection=no"
    )
    pool: Any = client_from_url(url).connection_pool
    made = pool.make_connection()
    assert (pool.service_name, made.db, made.username, made.password) == ("my master", 2, "app", "p@ss")
    assert isinstance(made, SSLConnection)
    manager = pool.sentinel_manager
    assert (manager.min_other_sentinels, manager._force_master_ip) == (1, "10.0.0.1")
    assert pool.check_connection is False
    asked = sentinels(url)
    assert [(one["host"], one["port"]) for one in asked] == [("a", 26379), ("b", 26380), ("::3", 26379)]
    for one in asked:
        assert (one["username"], one["password"], one["socket_timeout"]) == ("watch", "w&tch", 0.25)
        assert one["ssl_ca_certs"] == "/ca.pem"
    (plain,) = sentinels("redis+sentinel://app:secret@a/mymaster")
    assert plain.get("password") is None, "whoever knows the master's password need not be known to the sentinels"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("option", "attribute", "value"),
    [
        ("socket_timeout=1.5", "socket_timeout", 1.5),
        ("socket_connect_timeout=2", "socket_connect_timeout", 2.0),
        ("socket_read_size=4096", "_socket_read_size", 4096),
        ("health_check_interval=30", "health_check_interval", 30),
        ("client_name=a%20b", "client_name", "a b"),
        ("retry_on_timeout=yes", "retry_on_timeout", True),
        ("protocol=3", "protocol", 3),
        ("decode_responses=false", "", False),
        ("max_connections=7", "", 7),
        ("username=u&password=p%26", "password", "p&"),
    ],
)
def test_an_option_counts_in_every_scheme(scheme: str, option: str, attribute: str, value: object) -> None:
    made = connection(f"{SCHEMES[scheme]}?{option}")
    if attribute:
        assert getattr(made, attribute, value) == value
        assert attribute.startswith("_") or hasattr(made, attribute)


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme.startswith("rediss")])
def test_an_option_of_tls_counts_in_every_scheme(scheme: str) -> None:
    options = "ssl_certfile=/c&ssl_keyfile=/k&ssl_check_hostname=no&ssl_cert_reqs=none&ssl_ca_path=/p&ssl_password=x"
    context = connection(f"{SCHEMES[scheme]}?{options}").ssl_context
    assert (context.certfile, context.keyfile, context.check_hostname) == ("/c", "/k", False)
    assert (context.ca_path, context.password) == ("/p", "x")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("nonsense=1", "nonsense"),
        ("socket_timeou=1", "do you mean socket_timeout"),
        ("socket_timeout=soon", "socket_timeout of a Redis URL needs a number from 0 on, not 'soon'"),
        ("socket_timeout=-1", "socket_timeout"),
        ("socket_timeout=nan", "socket_timeout"),
        ("retry_on_timeout=perhaps", "retry_on_timeout of a Redis URL needs true or false"),
        ("socket_timeout=", "socket_timeout of a Redis URL needs a value"),
        ("socket_timeout=1&socket_timeout=2", "socket_timeout is in the Redis URL twice"),
        ("protocol=4", "protocol"),
        ("db=x", "db of a Redis URL"),
        ("retry=3", "SessionGuard\\(client\\)"),
        ("connection_class=x", "connection_class"),
        ("host=h", "host"),
    ],
)
def test_a_bad_option_is_named(scheme: str, option: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        client_from_url(f"{SCHEMES[scheme]}?{option}")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://h", "begins with redis://"),
        ("h:6379", "begins with"),
        (6379, "begins with"),
        (None, "begins with"),
        ("redis://h:x", "cannot be read"),
        ("redis://h:70000", "cannot be read"),
        ("redis://h:0", "port from 1"),
        ("redis://[::1", "cannot be read"),
        ("redis://a,b", "names one host"),
        ("redis://h/first", "is a number"),
        ("redis://h/-1", "is a number"),
        ("redis://h/1?db=2", "two databases"),
        ("redis://h/0#x", "cannot be read"),
        ("unix://", "names a socket"),
        ("unix://run/redis.sock", "three slashes"),
        ("redis+sentinel://h", "names the service"),
        ("redis+sentinel://,h/m", "has a host"),
        ("redis+sentinel://h/m/x", "is a number"),
        ("redis+cluster://", "has a host"),
        ("redis+cluster://h/1", "database 0 only"),
        ("redis+cluster://h?db=1", "database 0 only"),
        ("redis://h?ssl_certfile=/c", "begin the Redis URL with rediss"),
        ("rediss://h?ssl_cert_reqs=perhaps", "perhaps"),
        ("rediss+cluster://h?ssl_cert_reqs=perhaps", "perhaps"),
        ("embedded://?socket_timeout=1", "socket_timeout"),
        ("memory://a?db=1", "no option db"),
    ],
)
def test_what_is_wrong_is_told(url: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        client_from_url(url)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "password", ["sec/ret", "secret#1", "secret?x", "[secret", "secret?x=1&y", "sec&?ret=1", "1?sec=ret"]
)
def test_a_password_that_is_not_escaped_is_not_shown(scheme: str, password: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        client_from_url(SCHEMES[scheme].replace("://", f"://user:{password}@"))
    assert "sec" not in str(caught.value)
    assert "ret" not in str(caught.value)
