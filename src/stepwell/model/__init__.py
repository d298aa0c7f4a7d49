"""Nouns and rules: runs, the journal, the lifecycle, retries, the clock.

The rule: imports nothing else of Stepwell but errors.
"""
