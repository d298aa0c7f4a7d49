"""Decisions that the store asks for inside a transaction.

The rule: pure functions of the rows that they are given, and of the time.
"""
