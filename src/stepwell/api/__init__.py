"""What users hold: engines, handles of runs, and the options that they take.

The rule: what is asked goes down as a request, what is shown comes back as a value; nothing is decided here.
"""
