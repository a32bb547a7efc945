"""What a guarded session costs, beside its peers: instructions, and ratios measured in one run.

``python -m benchmarks --quick`` runs all, on three servers, and writes the tables and pictures of the documentation;
``python -m benchmarks instructions sizes`` (or any of their names) some; ``python -m benchmarks.sizes`` prints one and
writes nothing. Each starts private servers, and its contenders take turns, so that noise hits all of them.
"""
