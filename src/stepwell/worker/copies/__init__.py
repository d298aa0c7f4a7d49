"""Copies of runs that are replayed to be looked at or asked, and dropped.

The rule: nothing comes of a copy: no claim, no step, no commit.
"""
