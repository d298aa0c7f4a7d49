"""Decides about many runs: which are in memory, what is delivered to them, and what follows from that.

The rule: time and events in, changes and effects out; no clock, no thread, and the store only by its
protocols.
"""
