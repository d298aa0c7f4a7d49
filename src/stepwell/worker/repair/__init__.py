"""What people do to a run that went wrong: go back, fork, undo a failure, settle a step.

The rule: each module says what becomes of the run's entries; a request serves it, the store applies it.
"""
