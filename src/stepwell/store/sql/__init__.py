"""What every store on an SQL database shares.

The rule: statements come from ``.sql`` files by name; Python code contains no SQL. (Except where an SQLite file is
opened, checked, migrated or attached: `stepwell.store.sqlite.file`, `verify` and `archive` beside it.)
"""
