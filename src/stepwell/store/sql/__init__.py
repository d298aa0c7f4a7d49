"""What every store on an SQL database shares.

The rule: statements come from ``.sql`` files by name; no SQL stands in Python code. (What opens, checks
and migrates an SQLite file, in `stepwell.store.sqlite.file`, has some.)
"""
