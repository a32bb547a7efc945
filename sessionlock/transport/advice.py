"""What to do about a connection that failed, by what the error says."""

from __future__ import annotations

import re

__all__ = ["unreachable_advice", "with_advice"]

_ADVICE = (
    (
        r"unknown command\W+HELLO",
        "this server speaks RESP2 only (Redis before 6.0): put protocol=2 into the URL (?protocol=2)",
    ),
    (
        "NOAUTH|WRONGPASS|invalid username-password|invalid password|authentication required",
        "give the right user and password in the URL: redis://user:password@host:port/0",
    ),
    ("called without any password", "this server has no password: take it out of the URL, or set one at the server"),
    ("DB index is out of range", "give a database that the server has: the number at the end of the URL"),
    (
        "no (connection|answer) within",
        "the server hangs, or the way to it does: look at its load and log, at firewalls between, and whether the URL"
        " should be rediss:// (TLS)",
    ),
    (r"\bMOVED\b", "this is a node of a Redis Cluster: use redis+cluster://host:port"),
    (
        "no master found for",
        "none of these sentinels told of a master: check their hosts and ports, that they run, and the service's name",
    ),
    (
        "connect call failed|connection refused",
        "nobody listens there: check host and port, that the server is running, and that it listens at this address"
        " (bind) and port (its tls-port is for rediss://, its port for redis://)",
    ),
    (r"connecting to /.*no such file", "check the path of the socket, and that the server is running"),
    (
        "name or service not known|nodename nor servname|name resolution|no address associated|getaddrinfo failed",
        "check the name of the host",
    ),
    ("WRONG_VERSION_NUMBER|record layer failure", "this port is not for TLS: use redis://, or the server's tls-port"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "name the authority that signed the server's certificate in the URL (?ssl_ca_certs=/path/to/ca.pem)",
    ),
)


def unreachable_advice(error: BaseException) -> str:
    """What to do about a connection that failed; "" when the error says it all."""
    return next((advice for said, advice in _ADVICE if re.search(said, str(error), re.IGNORECASE)), "")


def with_advice(said: str, error: BaseException) -> str:
    """What is said about a connection that failed, with what to do about it."""
    advice = unreachable_advice(error)
    return f"{said}; {advice}" if advice else said
