"""Decisions that need no run in memory: whose turn it is, what a schedule does, what an id that is taken means.

The rule: pure functions of rows, of the store's reads and of the time. `queue_policy` and `schedule_policy` are asked
inside the transaction that their answers become part of.
"""
