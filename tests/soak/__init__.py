"""Many processes work on a few sessions, in every mode at once; afterwards the books must balance.

``python -m tests.soak --seconds 60 --processes 8 --sessions 20``. Every process keeps a ledger of what was acknowledged
to it. At the end, for every session: the counter is the sum of the acknowledged steps; every acknowledged flash message
and cart item was delivered exactly once or is still there, and nothing is there that nobody acknowledged.
"""
