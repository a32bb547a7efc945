"""A cart in Flask that loses nothing: `python examples/flask_app.py [redis://…]`, then open the printed address.

Under gunicorn: `SESSION_LOCK_URL=redis://localhost gunicorn -w 2 --threads 4 examples.flask_app:app`.
"""

import os
import sys

from flask import Flask, flash, get_flashed_messages, session

from sessionlock.integrations.flask.extension import SessionLock
from sessionlock.integrations.web.decorators import locks_session

app = Flask(__name__)
app.config["SESSION_LOCK_URL"] = os.environ.get("SESSION_LOCK_URL", "embedded://")
if __name__ == "__main__" and sys.argv[1:]:
    app.config["SESSION_LOCK_URL"] = sys.argv[1]
SessionLock(app)


@app.post("/cart/<product>")
def add(product: str) -> list[str]:
    session.setdefault("cart", []).append(product)  # locked since the first touch; saved before the answer begins
    flash(f"{product} is in your cart")
    return list(session["cart"])


@app.get("/cart")
def show() -> dict[str, list[str]]:
    return {"cart": session.get("cart", []), "news": [str(message) for message in get_flashed_messages()]}


@app.post("/login/<user>")
@locks_session(wait=1)
def login(user: str) -> str:
    session["user"] = user  # somebody else is logged in now: the session gets a new id by itself
    return f"hello {user}"


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "5000")), threaded=True)
