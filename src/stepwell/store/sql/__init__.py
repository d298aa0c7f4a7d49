"""What every store on an SQL database shares.

The rule: statements come from ``.sql`` files by name; no SQL stands in Python code. (What
opens, checks and migrates a SQLite file, in `store/sqlite/file`, has some.)
"""
