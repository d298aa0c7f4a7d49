"""What workflow code calls: the operations of the language, one file each.

The file of an operation has everything about it: the function that authors call, its kinds of journal entries, how it
is opened and withdrawn, why a run waits for it, and its name in the message of a divergence. `table` lists the kinds.

The rule: an operation is asked of the run whose code is executing; outside of a run it is an error. It acts on what is
below: the worker's runs and the unit of work. Nothing below this package knows an operation by name, except steps and
timers.
"""
