"""What is kept: the five protocols that a store fulfils, and the stores.

The rule: a store applies changes and answers questions. It decides nothing: what is decided inside a transaction is a
pure function of the worker package.
"""
