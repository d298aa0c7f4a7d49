"""What workflow code calls: the operations of the language.

The rule: an operation is asked of the run whose code is executing, and outside of a run it is an error.
"""
