"""How one run goes on: it is claimed, carried on, comes to rest, ends and leaves memory.

The rule: a function here gets a run that is in memory (or about to be), and adds to its unit of work.
"""
