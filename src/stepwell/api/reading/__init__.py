"""What people are shown of a file, whoever has it open.

The rule: it reads, and changes nothing; why a run waits is put in words here and nowhere else.
"""
