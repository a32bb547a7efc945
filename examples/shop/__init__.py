"""One shop on two nodes, guarded and unguarded, to see with one's own eyes: ``python -m examples.shop``."""
