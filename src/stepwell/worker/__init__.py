"""Many runs: which are in memory, what reaches them, what becomes of it.

The rule: time and events in, changes and effects out; no clock, no thread, and the store only by its
protocols.
"""
