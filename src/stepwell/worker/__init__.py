"""Many runs: which are in memory, what reaches them, what becomes of it.

The rule: time and events in, changes out; no clock, no thread, no store.
"""
