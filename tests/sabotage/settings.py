"""Protections of the set-up: settings that are checked, middlewares in their places, serializers, messages."""

from __future__ import annotations

from tests.sabotage import Table

CHECKS = "tests/integrations/django/test_checks.py::"
MESSAGES = "tests/integrations/django/test_messages.py::"
SERIALIZER = "tests/integrations/django/test_serializer.py::"
SETTINGS = "tests/integrations/settings/test_settings.py::"

MIDDLEWARE = "integrations/django/middleware.py"
SERIALIZING = "integrations/django/serializing.py"
REGISTRY = "integrations/settings/__init__.py"
FLASK_FAMILY = "integrations/flask_family/application.py"

SABOTAGE: Table = [
    (
        "Django: two session middlewares start a server",
        "A10",
        MIDDLEWARE,
        "        checks.refuse()\n",
        "",
        CHECKS + "test_a_server_refuses_to_start_with_what_can_never_work",
    ),
    (
        "Django: ours within ours does its work twice",
        "A10",
        MIDDLEWARE,
        "        if self._stands_inside_itself(request):\n",
        "        if False:\n",
        CHECKS + "test_a_hidden_mistake_is_told_once_and_keeps_no_lock",
    ),
    (
        "Django: another session in the place of ours is not told of",
        "A10",
        MIDDLEWARE,
        "        checks.beside(request, request.sessionlock_run.store)\n",
        "",
        CHECKS + "test_a_hidden_mistake_is_told_once_and_keeps_no_lock",
    ),
    (
        "Django: the engine without the middleware is not told of",
        "A11",
        "integrations/django/__init__.py",
        "checks.as_imported()\n",
        "",
        CHECKS + "test_a_server_logs_once_what_is_merely_wrong",
    ),
    (
        "Django: a message is shown to every tab",
        "A13",
        "integrations/django/settings.py",
        '{"": "deliver_once"}',
        '{"": "append"}',
        MESSAGES + "test_a_message_that_six_tabs_find_is_shown_once",
    ),
    (
        "Django: a project's own serializer is not used for what JSON can hold",
        "B10",
        SERIALIZING,
        "    if path == DEFAULT:",
        "    if True:",
        SERIALIZER + "test_what_it_keeps_secret_is_secret",
    ),
    (
        "Django: a serializer pickles without having been allowed to",
        "B10",
        SERIALIZING,
        "if not may_pickle and _is_pickle(written):",
        "if False:",
        SERIALIZER + "test_one_that_pickles_must_be_allowed",
    ),
    (
        "Django: what a visitor sent is unpickled",
        "B10",
        SERIALIZING,
        "            return BY_CODEC + self._exact.encode(key, value)\n",
        "            if type(value) is dict and BYTES in value:\n"
        "                return BY_SERIALIZER + base64.b64decode(value[BYTES])\n"
        "            return BY_CODEC + self._exact.encode(key, value)\n",
        SERIALIZER + "test_what_looks_like_what_it_wrote_is_only_a_value",
    ),
    (
        "a setting that does not exist is accepted",
        "B19",
        REGISTRY,
        "    if unknown:\n",
        "    if False:\n",
        SETTINGS + "test_flask_and_quart_name_a_setting_that_does_not_exist",
    ),
    (
        "a bad value is told by another's name",
        "B19",
        REGISTRY,
        '        raise ConfigurationError(f"{spelled or option}{complaint}")\n',
        '        raise ConfigurationError(f"{option}{complaint}")\n',
        SETTINGS + "test_flask_and_quart_name_the_setting_whose_value_makes_no_sense",
    ),
    (
        "a setting that comes too late has no effect, without a word",
        "B19",
        FLASK_FAMILY,
        "    if late:\n",
        "    if False:\n",
        SETTINGS + "test_what_comes_into_the_configuration_too_late_is_told_once",
    ),
    (
        "what another package left behind is not named",
        "B8",
        FLASK_FAMILY,
        "        if idle:\n",
        "        if False:\n",
        SETTINGS + "test_what_another_package_left_behind_is_named",
    ),
]
