"""A script, made to keep a flavour's rules: what it calls is looked at, as it runs."""

from __future__ import annotations

import hashlib
import re

from tests.harness.flavours.flavour import Flavour

__all__ = ["sha_of", "watched_library", "watched_script"]

# Stands before a script and takes the place of `redis` there. A library's functions get their keys by their arguments.
WATCH = """
local redis = (function(redis, keys)
  local declared = {}
  local refused, instead, undeclared = {%(refused)s}, {%(instead)s}, %(undeclared)s
  local without_keys = {TIME = true, PUBLISH = true, SPUBLISH = true, PUBSUB = true}
  local keys_only = {DEL = true, EXISTS = true, UNLINK = true}
  local function declare(keys)
    declared = {}
    for _, key in ipairs(keys) do
      declared[key] = true
    end
  end
  local function objection(name, ...)
    if refused[name] then
      return refused[name]
    elseif not undeclared or without_keys[name] then
      return nil
    end
    for i = 1, keys_only[name] and select('#', ...) or 1 do
      if not declared[(select(i, ...))] then
        return undeclared
      end
    end
  end
  local function call(name, ...)
    local name = string.upper(name)
    local against = objection(name, ...)
    if against then
      error({err = against})
    end
    return redis.call(instead[name] or name, ...)
  end
  local function pcall(name, ...)
    local name = string.upper(name)
    local against = objection(name, ...)
    if against then
      return {err = against}
    end
    return redis.pcall(instead[name] or name, ...)
  end
  local function register_function(given)
    local run = given.callback
    given.callback = function(keys, args)
      declare(keys)
      return run(keys, args)
    end
    return redis.register_function(given)
  end
  declare(keys or {})
  return setmetatable({call = call, pcall = pcall, register_function = register_function}, {__index = redis})
end)(redis, %(keys)s)
"""


def watched_script(flavour: Flavour, text: str) -> str:
    return _watch(flavour, "KEYS") + text


def watched_library(flavour: Flavour, text: str) -> str:
    shebang, _, rest = text.partition("\n")
    return f"{shebang}\n{_watch(flavour, 'nil')}{rest}"


def sha_of(text: str) -> str:
    return hashlib.sha1(text.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()


def _watch(flavour: Flavour, keys: str) -> str:
    return re.sub(r"\s+", " ", WATCH) % {
        "refused": ", ".join(f"{name} = {_quoted(said)}" for name, said in flavour.not_in_scripts.items()),
        "instead": ", ".join(f"{name} = '{other}'" for name, other in flavour.instead_in_scripts.items()),
        "undeclared": _quoted(flavour.declared_only) if flavour.declared_only else "nil",
        "keys": keys,
    }


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
