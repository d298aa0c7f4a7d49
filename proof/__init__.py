"""Proof by faults: each harness breaks the engine's world in one way and counts what the engine then loses.

Not part of the installed package. Every harness brings broken engines along, its negative controls: one that it does
not catch is a failure of the harness.
"""
