"""What a worker knows: its runs in memory, the works of the batch, facts and effects.

The rule: books are kept here, and nothing is decided.
"""
