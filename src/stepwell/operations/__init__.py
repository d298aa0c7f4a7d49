"""What workflow code calls: the operations of the language, one file each.

A file has all that there is to an operation: the author's function, the kinds of entry that the journal holds of it,
how it is opened and withdrawn, why a run waits for it, how it is called where code and journal differ. `table` lists
them.

The rule: an operation is asked of the run whose code is executing, and outside of a run it is an error. What is done
about one goes down, to the worker's runs and its unit of work; nothing below this package knows any of them by name,
but for steps and timers.
"""
