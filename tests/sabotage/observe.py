"""Protections of what is told: to whom a wait is put down, what is refused, what never leaves in a label."""

from __future__ import annotations

from tests.sabotage import Table

TOLD = "tests/lock/test_observe.py::"
MORE = "tests/lock/test_observe_more.py::"
OTEL = "tests/integrations/test_opentelemetry.py::"
PROMETHEUS = "tests/integrations/test_prometheus.py::"
LOGS = "tests/integrations/test_logs.py::"
ROUTES = "tests/integrations/test_routes.py::"

SABOTAGE: Table = [
    (
        "the trace of a holder is shown to people",
        "observe",
        "protocol/labels.py",
        'return (label, trace) if mark and _TRACE.fullmatch(trace) else (said, "")',
        'return said, ""',
        (MORE + "test_nobody_else_sees_the_trace", MORE + "test_what_stands_in_a_label"),
    ),
    (
        "whatever follows the mark is taken for a trace",
        "observe",
        "protocol/labels.py",
        "if mark and _TRACE.fullmatch(trace) else",
        "if mark else",
        MORE + "test_what_stands_in_a_label",
    ),
    (
        "a node of two words makes a route of its second",
        "observe",
        "guard.py",
        '.replace(" ", "_")',
        "",
        MORE + "test_a_node_is_one_word",
    ),
    (
        "one observer that fails keeps the event from the others",
        "observe",
        "observe.py",
        '                log.exception("an observer failed at %s", type(event).__name__)\n',
        '                log.exception("an observer failed at %s", type(event).__name__)\n                return\n',
        MORE + "test_several_observers",
    ),
    (
        "a refused save under the lock is told to nobody",
        "observe",
        "lock/observed.py",
        "    if observer is not None and isinstance(error, SessionLockError):\n",
        "    if False:\n",
        (MORE + "test_under_the_lock", MORE + "test_an_immediate_save"),
    ),
    (
        "a session that cannot be read is told to nobody",
        "observe",
        "session/unlocked.py",
        "            if runtime.observer is not None:\n",
        "            if False:\n",
        MORE + "test_without_the_lock",
    ),
    (
        "a block that is left twice has been released twice",
        "observe",
        "lock/context.py",
        "if runtime.observer is not None and not lease.released:",
        "if runtime.observer is not None:",
        TOLD + "test_refused_at_the_end",
    ),
    (
        "a long outage is told once",
        "observe",
        "transport/outages.py",
        "            self._remind(trouble)\n",
        "",
        MORE + "test_a_long_outage_is_told_again",
    ),
    (
        "a call that is sent again is told to nobody",
        "observe",
        "transport/repetition.py",
        "            self._on_again(self._tries)\n",
        "            pass\n",
        MORE + "test_calls_that_are_sent_again",
    ),
    (
        "a wait has no link to its holder's trace",
        "observe",
        "integrations/opentelemetry.py",
        "        if traceparent and traceparent not in self.links:\n",
        "        if False:\n",
        OTEL + "test_a_wait_is_linked_to_the_trace_of_its_holder",
    ),
    (
        "what is short makes a span all the same",
        "observe",
        "integrations/opentelemetry.py",
        (
            "            if event.held < self._shortest:\n",
            "        if story.telling or event.held >= self._shortest:\n",
        ),
        ("            if False:\n", "        if True:\n"),
        OTEL + "test_what_is_short_and_uneventful_makes_no_span",
    ),
    (
        "every label is a route of its own",
        "observe",
        "integrations/measures.py",
        "            if len(self._routes) >= MOST_ROUTES:\n",
        "            if False:\n",
        PROMETHEUS + "test_whatever_the_labels_are_the_series_are_few",
    ),
    (
        "the first lost lease is the first that is seen of its counter",
        "observe",
        "integrations/measures.py",
        "            for measure, others in BEGIN_AT_ZERO:\n",
        "            for measure, others in ():\n",
        (
            PROMETHEUS + "test_what_is_rare_is_seen_at_zero_before_it_happens",
            OTEL + "test_what_is_rare_is_seen_at_zero_before_it_happens",
        ),
    ),
    (
        "OpenTelemetry's zeros are there at the second collection",
        "observe",
        "integrations/opentelemetry.py",
        "        self._route(label)  # what is to be seen at zero is, before it is told that anything happened\n",
        "",
        OTEL + "test_what_is_rare_is_seen_at_zero_before_it_happens",
    ),
    (
        "each request of an outage is a warning",
        "observe",
        "integrations/logs.py",
        "    if isinstance(error, RedisUnavailable) and not isinstance(error, OutcomeUnknown):\n",
        "    if False:\n",
        LOGS + "test_an_outage_is_told_at_its_beginning_and_its_end",
    ),
    (
        "a holder is shown by its path",
        "observe",
        "integrations/web/asked.py",
        "        return str(self.name)\n",
        "        return self.page\n",
        (ROUTES + "test_a_holder_is_shown_by_its_route", ROUTES + "test_the_log_names_the_route"),
    ),
    (
        "Flask's log names the path",
        "observe",
        "integrations/flask/interface.py",
        "label_of(current_request.method, _route(current_request))",
        "label_of(current_request.method, current_request.path)",
        ROUTES + "test_the_log_names_the_route",
    ),
    (
        "Quart's log names the path",
        "observe",
        "integrations/quart/interface.py",
        "RouteName(_method(request), partial(_route, request))",
        "RouteName(_method(request), lambda: request.path)",
        ROUTES + "test_the_log_names_the_route",
    ),
    (
        "Django's log names the path",
        "observe",
        "integrations/django/answers.py",
        "tell(error, request.sessionlock_run.label)",
        'tell(error, f"{request.method} {request.path}")',
        "tests/integrations/django/test_lock.py::test_the_log_names_the_route",
    ),
    (
        "where aiohttp's router has no route, the path is told",
        "observe",
        "integrations/aiohttp/settings.py",
        "return NO_ROUTE if route.resource is None",
        "return request.path if route.resource is None",
        ROUTES + "test_a_holder_is_shown_by_its_route",
    ),
    (
        "the route is looked for in what the router has written over",
        "observe",
        "integrations/asgi/middleware.py",
        "partial(route_of_scope, dict(scope), self.app)",
        "partial(route_of_scope, scope, self.app)",
        ROUTES + "test_what_a_router_writes_into_its_scope",
    ),
    (
        "whoever sends methods makes routes",
        "observe",
        "integrations/web/naming.py",
        "        method = OTHER_METHOD\n",
        "        pass\n",
        (
            "tests/integrations/web/test_rules.py::test_labels",
            ROUTES + "test_a_holder_is_shown_by_its_route",
        ),
    ),
]
