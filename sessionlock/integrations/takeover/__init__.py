"""Sessions that visitors have already: taken over from the session layer that an application used before.

::

    app.add_middleware(SessionLockMiddleware, guard=url, cookie="session", read_from=Starsessions(old_url))

The first request that comes with an old session's cookie takes the session over, once, whatever several nodes do at
that moment; from then on it lives here. With ``write_back=True`` old nodes may go on beside new ones: what either side
changed is exchanged at each request, until the last old node is gone (or, for a roll-back, the last new one). For that
the old and the new cookie must have one name.
"""

from .cookies import FlaskCookie, StarletteCookie
from .django import DjangoEngine
from .origins import AiohttpSession, ConnectRedis, FlaskSession, Starsessions
from .taking import Old, Origin, TakeOver

__all__ = [
    "AiohttpSession",
    "ConnectRedis",
    "DjangoEngine",
    "FlaskCookie",
    "FlaskSession",
    "Old",
    "Origin",
    "StarletteCookie",
    "Starsessions",
    "TakeOver",
]
