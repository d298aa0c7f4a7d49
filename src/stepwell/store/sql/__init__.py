"""What every store on an SQL database shares.

The rule: statements come from ``.sql`` files by name; no SQL stands in Python code.
"""
