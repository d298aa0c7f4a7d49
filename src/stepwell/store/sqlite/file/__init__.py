"""Opening the one file so that nothing acknowledged can be lost.

The rule: only this package knows what the file is, where it is and how it is locked.
"""
