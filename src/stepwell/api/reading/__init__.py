"""What people are shown of a file, whoever has it open.

The rule: it reads, and changes nothing; times and reasons in words are made here and nowhere else.
"""
