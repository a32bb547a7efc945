"""The admin page's HTML: no build step, no file beside it. It works without scripts; with them it stays up to date."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple
from urllib.parse import quote

from ..operate import Inspection, LocksSeen, LockState, SessionField, SessionState

__all__ = ["Frame", "Part", "message", "one_value", "overview", "search", "session", "told", "user"]

LONGEST_VALUE = 20_000  # characters that are shown
LONGEST_KEY = 200
LONGEST_ASKED = 30_000  # characters of a key that a form carries
STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881;--link:#0b57d0;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--link:#8ab4f8;--bad:#f2b8b5}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:70rem;padding:1rem}
a{color:var(--link)}
:focus-visible{outline:3px solid var(--link);outline-offset:2px}
.skip{position:absolute;left:-99rem}.skip:focus{position:static}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
td{overflow-wrap:anywhere}
th{font-weight:600}.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code,pre{font-family:ui-monospace,monospace;font-size:.92em}
pre{background:var(--soft);padding:.8rem;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}
dt{font-weight:600}dd{margin:0;overflow-wrap:anywhere}
form{display:inline}input,button{font:inherit;padding:.3rem .6rem;max-width:100%}
.search{display:flex;flex-wrap:wrap;gap:1rem}.act{margin:1rem 0;padding:.6rem;border:1px solid var(--line)}
.act button,#late{color:var(--bad)}.note{color:inherit;opacity:.8}
@media (max-width:40rem){thead{position:absolute;left:-99rem}
tr{display:block;border-bottom:2px solid var(--line);padding:.4rem 0}
td,td.n{display:flex;justify-content:space-between;gap:1rem;border:0;text-align:right;white-space:normal}
td::before{content:attr(data-name);font-weight:600;text-align:left}dl{grid-template-columns:1fr}dd{margin-bottom:.5rem}}
"""
# Fetches the page again and puts its live part in place, while it is looked at. It waits while something in there is
# selected, pressed or open, and it says so; it says, too, since when the page could not be fetched, and tries on.
SCRIPT = """
const $=id=>document.getElementById(id),live=$("live"),here=new URL(location);
if(here.searchParams.has("done")){here.searchParams.delete("done");history.replaceState(null,"",here)}
if(live){let since=new Date().toLocaleTimeString(),runs=false;
const say=(id,text)=>{if($(id).textContent!==text)$(id).textContent=text};
const mark=e=>[e.tagName,e.getAttribute("href"),e.form&&e.form.getAttribute("action"),e.textContent].join();
const why=()=>{const s=getSelection();
if(!$("keep").checked)return"not kept up to date";
if(s.rangeCount&&!s.isCollapsed&&s.getRangeAt(0).intersectsNode(live))return"waits while text is selected";
if(live.querySelector("details[open]"))return"waits while a form is open";
return live.querySelector(":active")?"waits":""};
const fetched=async()=>{const r=await fetch(here,{credentials:"same-origin",signal:AbortSignal.timeout(10000)});
const text=(await r.text()).replace(/<(style|script)[^]*?<\\/\\1>/g,"");
const d=new DOMParser().parseFromString(text,"text/html"),part=d.getElementById("live");
if(r.ok&&part)return part;
const said=d.querySelector("[role=alert]");
throw Error(said?said.textContent:r.redirected?"another page came; are you still logged in?":
"the answer was "+r.status)};
const turn=async()=>{if(runs||document.hidden)return;runs=true;
try{if(!why()){const part=await fetched();
if(!why()){const at=live.contains(document.activeElement)&&mark(document.activeElement);
live.replaceChildren(...part.childNodes);since=new Date().toLocaleTimeString();
if(at)([...live.querySelectorAll("a,summary,button")].find(e=>mark(e)===at)||live).focus({preventScroll:true})}
say("late","")}}
catch(e){say("late","Not up to date since "+since+": "+(e.name==="Error"?e.message:"no answer")+". It tries on.")}
const w=why();say("at","As of "+since+(w?"; "+w:"")+".");runs=false};
setInterval(turn,3000);document.addEventListener("visibilitychange",turn);
$("keep").addEventListener("change",turn);$("keeping").hidden=false;say("at","As of "+since+".")}
"""


class Frame(NamedTuple):
    """What all pages have in common. ``acts``: forms that change something are shown; ``reads``: those for values.
    ``mark``: what each form carries to show that it is ours; HTML of the framework's where it ``is_html``. ``back``:
    address of the host's own pages, or "".
    """

    root: str
    nonce: str
    mark: str
    acts: bool
    reads: bool
    is_html: bool
    back: str

    def page(self, title: str, content: str, *, live: str = "") -> str:
        """``live``: behind the content, and kept up to date."""
        home = escape(self.root + "/")
        keeping = (
            '<p id="keeping" hidden><label><input type="checkbox" id="keep" checked> Keep up to date</label>'
            ' <span id="at" class="note"></span> <strong id="late" role="status"></strong></p>'
            if live
            else ""
        )
        inside = f'{content}{keeping}<div id="live" tabindex="-1">{live}</div>' if live else content
        back = f'<a href="{escape(self.back)}">Administration</a> › ' if self.back else ""
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="robots" content="noindex">'
            f'<title>{escape(title)}</title><style nonce="{self.nonce}">{STYLE}</style></head><body>'
            '<a class="skip" href="#main">Skip to the content</a>'
            f'<header><nav aria-label="Pages">{back}<a href="{home}">Sessions and locks</a></nav></header>'
            f'<main id="main"><h1>{escape(title)}</h1>{inside}</main>'
            f'<script nonce="{self.nonce}">{SCRIPT}</script></body></html>'
        )

    def form(self, path: str, button: str, fields: str = "", hidden: dict[str, str] | None = None) -> str:
        mark = self.mark if self.is_html else _hidden("token", self.mark)
        inputs = "".join(_hidden(name, value) for name, value in (hidden or {}).items())
        action = escape(self.root + path)
        return f'<form method="post" action="{action}">{mark}{inputs}{fields}<button>{escape(button)}</button></form>'

    def to_session(self, digest: str) -> str:
        return f'<a href="{escape(self.root)}/session/{escape(digest)}"><code>{escape(digest)}</code></a>'


def _hidden(name: str, value: str) -> str:
    return f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'


def message(text: str) -> str:
    return f'<p role="alert">{escape(text)}</p>'


def told(text: str) -> str:
    """What came of an action."""
    return f'<p role="status"><strong>{escape(text)}</strong></p>'


def _seconds(value: float | None, none: str = "unknown") -> str:
    if value is None:
        return none
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if value >= 2 * size:
            return f"{value / size:.0f} {name}"
    return f"{value:.1f} s"


def _bytes(value: int | None) -> str:
    if value is None:
        return "unknown"
    for size, name in ((1 << 20, "MB"), (1 << 10, "kB")):
        if value >= size:
            return f"{value / size:.1f} {name}"
    return f"{value} B"


def _table(caption: str, names: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Cells are HTML. On narrow screens each row is a card, in which a cell has its name before it."""
    head = "".join(
        f'<th scope="col"{" class=n" if at in numbers else ""}>{escape(name)}</th>' for at, name in enumerate(names)
    )
    lines = [
        "<tr>"
        + "".join(
            f'<td data-name="{escape(names[at])}"{" class=n" if at in numbers else ""}><span>{cell}</span></td>'
            for at, cell in enumerate(cells)
        )
        + "</tr>"
        for cells in rows
    ]
    if not lines:
        return f"<h2>{escape(caption)}</h2><p>None.</p>"
    return (
        f'<h2>{escape(caption)}</h2><table aria-label="{escape(caption)}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def _list(pairs: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in pairs) + "</dl>"


def _who(node: str, route: str) -> str:
    return escape(" ".join(part for part in (node, route) if part) or "another client")


# --- pages


class Part(NamedTuple):
    """Some keys of a session, beginning with number ``begin`` of ``total``."""

    fields: Sequence[SessionField]
    total: int
    begin: int


def search(frame: Frame, users_are: str) -> str:
    find = frame.form("/find", "Find", '<label>Session <input name="session" autocomplete="off" required></label> ')
    account = frame.form("/user", "Find", '<label>User <input name="user" autocomplete="off" required></label> ')
    return (
        f'<div class="search">{find}{account}</div>'
        '<p class="note">A session is found by its id, its digest, or one of its keys in Redis; a user'
        f" {escape(users_are)}.</p>"
    )


def overview(frame: Frame, name: str, seen: LocksSeen, most: int) -> str:
    held, queues = seen.longest_held, seen.longest_queues
    looked, least = "", ""
    if seen.share < 1:
        why = f"{len(seen.locks):,} locks are enough for a page" if seen.full else "that is the time that there is"
        looked = f" <strong>Not all: {seen.share:.0%} of the keys were looked at; {why}.</strong>"
        least = "at least "
    counted = f"{escape(name)}. Keys: {seen.keys:,}. Locks held: {least}{len(held):,}. Queues: {least}{len(queues):,}."
    return (
        f'<p class="note">{counted}{looked}</p>'
        + _table(
            "Held locks, the longest first",
            ("Session", "Held by", "For", "Lease ends in", "Waiting", "Riding"),
            (_held_row(frame, lock) for lock in held[:most]),
            numbers=(2, 3, 4, 5),
        )
        + _more(len(held), most)
        + _table(
            "Queues, the longest first",
            ("Session", "Waiting", "Longest wait", "Held by"),
            (_queue_row(frame, lock) for lock in queues[:most]),
            numbers=(1, 2),
        )
        + _more(len(queues), most)
    )


def _queue_row(frame: Frame, lock: LockState) -> Sequence[str]:
    holder = lock.holder
    who = "nobody" if holder is None else _who(holder.node, holder.route)
    return frame.to_session(lock.digest), f"{lock.waiting}", _seconds(lock.longest_wait if lock.queue else None), who


def _more(count: int, most: int) -> str:
    return f"<p>And {count - most:,} more.</p>" if count > most else ""


def _held_row(frame: Frame, lock: LockState) -> Sequence[str]:
    holder = lock.holder
    assert holder is not None
    return (
        frame.to_session(lock.digest),
        _who(holder.node, holder.route),
        _seconds(holder.held_for),
        _seconds(holder.lease_left, "never"),
        f"{lock.queue}",
        f"{holder.riders}",
    )


def session(frame: Frame, found: Inspection, part: Part, prefix: str) -> str:
    lock, record, digest = found.lock, found.session, found.lock.digest
    holder = lock.holder
    parts = ["<h2>Lock</h2>"]
    if holder is None:
        parts.append("<p>Nobody holds it.</p>")
        if not found.known:
            parts.append(f"<p>Redis knows nothing of this session under the prefix <code>{escape(prefix)}</code>.</p>")
    else:
        parts.append(
            _list(
                (
                    ("Held by", _who(holder.node, holder.route)),
                    ("For", _seconds(holder.held_for)),
                    ("Lease ends in", _seconds(holder.lease_left, "never")),
                    ("Fence", f"{lock.fence}"),
                    ("Riding in its process", f"{holder.riders}"),
                    *((("Trace", f"<code>{escape(holder.trace)}</code>"),) if holder.trace else ()),
                )
            )
        )
        if frame.acts:
            release = frame.form(f"/session/{digest}/release", "Take the lock away", hidden={"holder": holder.token})
            parts.append(
                _act("Take the lock away", "The next waiter gets it; a late save of the holder is refused.", release)
            )
    parts.append(
        _table(
            f"Queue: {lock.queue:,} waiting",
            ("Place", "Who", "Waited"),
            (
                (f"{place}", _who(waiter.node, waiter.route), _seconds(waiter.waited))
                for place, waiter in enumerate(lock.waiters, 1)
            ),
            numbers=(0, 2),
        )
        + (_more(lock.queue, len(lock.waiters)) if lock.waiters else "")
    )
    parts.append("<h2>Record</h2>")
    if not record.exists:
        parts.append("<p>Destroyed; its id stays refused for a while.</p>" if record.destroyed else "<p>None.</p>")
        return "".join(parts)
    user_link = (
        f'<a href="{escape(frame.root)}/user/{escape(record.user)}"><code>{escape(record.user)}</code></a>'
        if record.user
        else "none: the session was not bound to one"
    )
    parts.append(
        _list(
            (
                ("Age", _seconds(record.age)),
                ("Saved", f"{record.version} times"),
                ("Expires, if not used, in", _seconds(record.expires_in, "never")),
                ("Ends in any case in", _seconds(record.ends_in, "never")),
                ("Memory", _bytes(record.bytes)),
                ("User", user_link),
            )
        )
    )
    if frame.acts:
        destroy = frame.form(f"/session/{digest}/destroy", "Log out")
        parts.append(_act("Log out", "The session ends at once, with all that is in it. That is for good.", destroy))
    parts.append(
        _table(
            "Keys",
            ("Key", "Size", "Value"),
            (
                (f"<code>{_key(field.key)}</code>", _bytes(field.bytes), _show(frame, digest, field))
                for field in part.fields
            ),
            numbers=(1,),
        )
    )
    return "".join(parts) + _pages(frame, digest, part)


def _key(key: str) -> str:
    return escape(key if len(key) <= LONGEST_KEY else f"{key[:LONGEST_KEY]}…")


def _show(frame: Frame, digest: str, field: SessionField) -> str:
    carried = quote(field.key, safe="")  # browsers change line ends, and some characters, in a form
    if not frame.reads:
        return "not yours to see"
    if len(carried) > LONGEST_ASKED:
        return "its key is too long for a form"
    return frame.form(f"/session/{digest}/value", "Show", hidden={"key": carried})


def _pages(frame: Frame, digest: str, part: Part) -> str:
    """Where there are more keys than these."""
    end, size = part.begin + len(part.fields), max(1, len(part.fields))
    if size >= part.total:
        return ""
    address = f"{escape(frame.root)}/session/{digest}?from="
    before = f'<a href="{address}{max(0, part.begin - size)}">The ones before</a> ' if part.begin else ""
    behind = f'<a href="{address}{end}">The next ones</a>' if end < part.total else ""
    return f"<p>Keys {part.begin + 1:,} to {end:,} of {part.total:,}. {before}{behind}</p>"


def _act(what: str, then: str, form: str) -> str:
    return f'<details class="act"><summary>{escape(what)} …</summary><p>{escape(then)}</p>{form}</details>'


def one_value(frame: Frame, digest: str, key: str, value: str | None) -> str:
    back = f"<p>{frame.to_session(digest)}</p>"
    if value is None:
        return f"{back}<p>It has no key <code>{_key(key)}</code> now.</p>"
    cut = "" if len(value) <= LONGEST_VALUE else f"<p>The first {LONGEST_VALUE:,} of {len(value):,} characters.</p>"
    return f"{back}<h2><code>{_key(key)}</code></h2>{cut}<pre>{escape(value[:LONGEST_VALUE])}</pre>"


def user(frame: Frame, digest: str, theirs: Sequence[SessionState], users_are: str, most: int) -> str:
    if not theirs:
        return (
            "<p>None. No live session is bound to this user.</p>"
            f'<p class="note">Users are named {escape(users_are)}. A session that was never bound to its user is not'
            " found here, and is not logged out from here.</p>"
        )
    rows = (
        (frame.to_session(state.digest), _seconds(state.age), _seconds(state.expires_in, "never"), _bytes(state.bytes))
        for state in theirs[:most]
    )
    acts = ""
    if frame.acts:
        form = frame.form(f"/user/{digest}/destroy", "Log out everywhere")
        acts = _act("Log out everywhere", f"All {len(theirs):,} sessions end at once. That is for good.", form)
    caption = "Live sessions, the youngest first"
    return (
        _table(caption, ("Session", "Age", "Expires in", "Memory"), rows, (1, 2, 3)) + _more(len(theirs), most) + acts
    )
