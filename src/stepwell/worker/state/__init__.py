"""What the parts of a worker share: its runs in memory, the works of the batch, facts and effects.

The rule: it is asked and told by the rooms above, and asks none of them; what becomes of a run is decided there.
"""
