"""Nouns and rules: runs, the journal, the lifecycle, retries, the clock.

The rule: of Stepwell, it imports only `errors`.
"""
