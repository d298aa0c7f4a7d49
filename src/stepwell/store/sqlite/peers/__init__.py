"""The other processes on the same file: who they are, whether they are alive, and what they notify each other of.

The rule: a notification is only a hint to look; the file alone says what is true.
"""
