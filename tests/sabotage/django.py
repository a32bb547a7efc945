"""Protections of Django's face: requests that run again, bodies, what comes late, what cannot be had."""

from __future__ import annotations

from tests.sabotage import Table

AGAIN = "tests/integrations/django/test_again.py::"
BODIES = "tests/integrations/django/test_bodies.py::"
DATA = "tests/integrations/django/test_data.py::"
LATE = "tests/integrations/django/test_late.py::"
OUTAGE = "tests/integrations/django/test_outage.py::"
LOCK = "tests/integrations/django/test_lock.py::"
SITE = "tests/integrations/django/test_site.py::"

ANSWERS = "integrations/django/answers.py"
CONTENT = "integrations/django/content.py"
CONTROL = "integrations/django/control.py"
MIDDLEWARE = "integrations/django/middleware.py"
RECORDS = "integrations/django/records.py"
RUNS = "integrations/django/runs.py"
SITTING = "integrations/django/sitting.py"

SABOTAGE: Table = [
    (
        "a safe request's conflict goes to the browser",
        "django",
        MIDDLEWARE,
        "        if self._may_run_again:\n            return _RunAgain(self.response)\n",
        "",
        AGAIN + "test_it_counts_on_what_the_other_has_left",
    ),
    (
        "the second run has what the first left in the request",
        "django",
        RUNS,
        "        request.__dict__.clear()\n        request.__dict__.update(self._had)\n",
        "",
        AGAIN + "test_the_request_is_as_it_came",
    ),
    (
        "the second run has what the first left in its mappings",
        "django",
        RUNS,
        "                held.update(content)\n",
        "                held.update({**content, 'LEFT': 'by the first run'})\n",
        AGAIN + "test_the_request_is_as_it_came",
    ),
    (
        "the second run cannot read the body",
        "django",
        RUNS,
        "        if spool is not None:\n            _reads(request, spool)\n        elif",
        "        if",
        AGAIN + "test_the_request_is_as_it_came",
    ),
    (
        "a body that can be read once is run twice",
        "django",
        RUNS,
        "            self.may_run_again = self.may_run_again and self._spool.complete\n",
        "",
        AGAIN + "test_a_body_that_is_not_received_ahead",
    ),
    (
        "routes are not learnt",
        "django",
        RUNS,
        "        self._learn(monotonic() - self._began)\n",
        "",
        AGAIN + "test_a_route_that_writes_is_learnt_by_its_pattern",
    ),
    (
        "the second run of a login goes on with the old key",
        "django",
        RUNS,
        '        self.key, self.mode = key, "lock"\n',
        '        self.mode = "lock"\n',
        AGAIN + "test_a_login_whose_request_runs_again",
    ),
    (
        "a safe request disturbs the holder of the lock",
        "django",
        RECORDS,
        'block = guard.unlocked(sid, mode, missing="reject", session=policy, yields=yields)',
        'block = guard.unlocked(sid, mode, missing="reject", session=policy)',
        AGAIN + "test_who_holds_the_lock_is_not_disturbed",
    ),
    (
        "what a view saves by itself is saved twice",
        "django",
        SITTING,
        "        self._save_once(record)\n",
        "",
        AGAIN + "test_what_a_view_saves_by_itself_is_saved_once",
    ),
    (
        "what a view counts is counted twice",
        "django",
        CONTROL,
        "        if self.course.counted:\n            self._where.run(self._uncount)\n",
        "        pass\n",
        AGAIN + "test_what_a_view_counts_is_counted_once",
    ),
    (
        "a thread of a request is taken for the request",
        "django",
        CONTROL,
        "        return _handled.get() is self\n",
        "        return True\n",
        LATE + "test_a_thread_while_the_answer_is_made",
    ),
    (
        "what is not sent is not closed",
        "django",
        RUNS,
        "            take_over(response, discarded)\n",
        "            pass\n",
        AGAIN + "test_what_is_not_sent_is_closed_with_what_is",
    ),
    (
        "a new key is not told when the rest is not saved",
        "django",
        MIDDLEWARE,
        "        if session.sessionlock.login.is_done and session.session_key is not None:\n",
        "        if False:\n",
        AGAIN + "test_a_login_that_is_not_saved",
    ),
    (
        "the body comes under the lock",
        "django",
        RUNS,
        "            self._spool.receive()\n",
        "            pass\n",
        BODIES + "test_a_body_comes_before_the_lock",
    ),
    (
        "a request that only reads is ended for its lease",
        "django",
        SITTING,
        "        if self._on_loss is not None and not self.course.over and self._unsaved():\n",
        "        if self.on_loss is not None:\n",
        BODIES + "test_nor_is_a_coroutine",
    ),
    (
        "a login without Django keeps its key",
        "django",
        SITTING,
        "        if grace is not None:\n            await self._renew(record, grace)\n",
        "",
        DATA + "test_who_logs_in_without_django_gets_a_new_key",
    ),
    (
        "keys are what they are in Python",
        "django",
        CONTENT,
        "        self.session[name_of(key)] = value\n",
        "        self.session[key] = value\n",
        DATA + "test_keys_that_are_no_str",
    ),
    (
        "a session ends for who uses it on",
        "django",
        RECORDS,
        "        session.stay_open()\n",
        "",
        LATE + "test_a_thread_that_outlives_its_request",
    ),
    (
        "a thread saves while its request does",
        "django",
        CONTROL,
        "        async with self._turn:\n            self.course.note(in_view=in_view)\n",
        "        if True:\n            self.course.note(in_view=in_view)\n",
        LATE + "test_steps_of_one_session_take_turns",
    ),
    (
        "async views under WSGI are refused",
        "django",
        "integrations/django/homes.py",
        "*args, stand_still=True)",
        "*args)",
        LATE + "test_an_async_view_under_wsgi",
    ),
    (
        "what a middleware meets is a crash",
        "django",
        SITTING,
        "        error.__class__ = _presentable_kind(type(error))\n",
        "",
        OUTAGE + "test_redis_is_gone",
    ),
    (
        "an answer that is made of nothing is sent",
        "django",
        MIDDLEWARE,
        "        if (control.trouble.doomed or failed) and",
        "        if failed and",
        OUTAGE + "test_but_not_by_mistake",
    ),
    (
        "a session that could not be locked is looked for after the view",
        "django",
        MIDDLEWARE,
        "        control.trouble.tell(answer is not None)\n        return answer\n",
        "        return None\n",
        OUTAGE + "test_somebody_else_has_it",
    ),
    (
        "our answers lose what others have added",
        "django",
        ANSWERS,
        "        if stays(name) and name not in answer:\n",
        "        if False:\n",
        OUTAGE + "test_a_conflict_keeps_what_others_have_added",
    ),
    (
        "who changed nothing is refused when the session has ended",
        "django",
        SITTING,
        "            if changed:\n                raise UpdateError",
        "            if True:\n                raise UpdateError",
        LOCK + "test_also_where_each_request_is_saved",
    ),
    (
        "what stands in the session's place is taken for one",
        "django",
        MIDDLEWARE,
        "found if all(hasattr(found, name) for name in SESSION_LIKE) else None",
        "found",
        SITE + "test_something_else_in_the_session_s_place",
    ),
]
