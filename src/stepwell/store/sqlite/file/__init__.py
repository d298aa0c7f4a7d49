"""Opening the one file so that nothing acknowledged can be lost.

The rule: what the file is, where it lies and how it is locked is known here and nowhere above.
"""
