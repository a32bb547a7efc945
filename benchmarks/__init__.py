"""What a guarded session costs, beside its peers: ratios measured in one run, never seconds to be compared by hand.

``python -m benchmarks`` runs all of them, ``python -m benchmarks.uncontended`` (``hot_session``, ``many_sessions``)
one. Each starts a private server unless ``--url`` names one, keeps every contender in worker processes of its own
and lets them take turns, so that noise hits all of them. ``python -m benchmarks.frameworks`` counts what the usual
session back ends of web frameworks lose.
"""
