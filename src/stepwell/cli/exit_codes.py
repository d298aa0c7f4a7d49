"""What the exit code of a command says; see the page on the command line. 128 + n is: ended by signal n at once."""

from typing import Final

#: The file, the disk, the run or the answer is not as the command needs it.
FAILED: Final = 1
#: The command line is wrong, or a module of workflows cannot be imported.
USAGE: Final = 2
