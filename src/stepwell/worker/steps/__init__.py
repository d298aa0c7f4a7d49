"""Attempts of steps under way, and what they say before they end.

The rule: nothing here decides about a run.
"""
