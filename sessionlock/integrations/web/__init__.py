"""What all faces share, free of any framework. For each request a face does this:

1. Options are keywords (:class:`..settings.options.FaceOptions`), checked by :func:`..settings.check_arguments`;
   :class:`..settings.options.FaceSettings` is what they come to, for all requests.
2. ``settings.rules.policy_for(method, path, view)`` says what holds for this one. Mode ``"off"``: it has no session.
3. ``visit = RequestSession(Asked.of(guard, cookie, policy, sid, ...))``, as the session is touched
   first, or before the handler. Under the lock the body comes first: ``policy.body_ahead`` bytes of it.
4. ``await visit.open()``; the handler gets ``visit.mapping``. ``visit.when_lost(cancels.cancel)`` ends a handler whose
   lock was lost (:class:`.cancelling.Cancels`).
5. Before anything of the answer is sent: ``await visit.finish(failed=status >= 500)`` saves and releases. Then
   ``visit.answer.set_cookie`` and ``visit.answer.vary`` are told in headers (:func:`.headers.varies_by_cookie`). An
   exception that is an answer (a redirect, a 404) saves; any other does not. A hook of the framework serves only if
   what it raises stops the answer; where it logs and goes on, the face replaces the answer itself.
6. That raised :class:`.request_session.RunAgain`: nothing of this run is sent. The first visit is closed, without an
   error, and the request runs once more as it came, with ``visit.again()``. Where the framework cannot begin again (a
   stream), it becomes a SessionConflict before anything is sent.
7. ``await visit.aclose(error)`` in any case, in the task that opened it. A client that goes away while it waits is
   cancelled, so that it leaves the queue.
8. An error of the session becomes an answer: ``settings.problems.answer(error, accept)``, and :func:`.problems.tell`
   logs it. Headers of the application's own answer that stay: :func:`.headers.stays`.
9. As the application starts: :func:`.starting.look_at_start`. As it ends, what was made of a URL is closed.

:mod:`..aiohttp.request` does all of it in one file, a third of which is for running again and for late bodies.
"""

from .mapping import WebSession
from .problems import Problem
from .rules import RoutePolicy

__all__ = ["Problem", "RoutePolicy", "WebSession"]
