"""Converts Python values to payloads and back.

The rule: what is read equals what was written, or the value was refused.
"""
