r"""Completion for bash, whose words end at colons and equals signs: ``status:fa`` is three of them to it.

So it is asked for the line as it stands, and told what follows the part that readline keeps. What stands in no quotes
yet is quoted, since ids may have blanks.
"""

from __future__ import annotations

import os
import re
import shlex
from typing import Any, Final

from click.shell_completion import BashComplete, CompletionItem, add_completion_class, split_arg_string

#: Characters that mean something to bash where they stand in no quotes.
_SPECIAL: Final = re.compile(r"([^\w@%+=:,./^-])")
#: In which the script says what stands on the line up to the cursor, and which part of it readline would replace.
_LINE: Final = "COMP_LINE"
_TYPED: Final = "COMP_TYPED"
_SCRIPT: Final = """\
%(complete_func)s() {
    local type value
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            *) COMPREPLY+=("$value") ;;
        esac
    done < <(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_TYPED="$2" %(complete_var)s=bash_complete "$1")
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Bash(BashComplete):
    """What bash reads, and how it asks."""

    source_template = _SCRIPT

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words of the line before the one that is being typed, and that one as far as it is."""
        line = os.environ.get(_LINE)
        if line is None:  # by the script of an earlier release, which a shell has still in its memory
            return super().get_completion_args()
        words = split_arg_string(line)
        if line[-1:].isspace() and not line.endswith("\\ ") and not _in_quotes(line):
            words.append("")
        return words[1:-1], words[-1]

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """Return what takes the place of the part that readline would replace."""
        line, value = os.environ.get(_LINE), str(item.value)
        if line is not None:
            word, replaced = self.get_completion_args()[1], "".join(split_arg_string(os.environ[_TYPED]))
            value = value[len(word) - len(replaced) if word.endswith(replaced) else 0 :]
            value = value if _in_quotes(line) else _SPECIAL.sub(r"\\\1", value)
        return f"{item.type},{value}"


def _in_quotes(line: str) -> bool:
    """Tell whether a quotation has begun that has not ended."""
    try:
        shlex.split(line)
    except ValueError:
        return not line.endswith("\\")
    return False


def register() -> None:
    """Have click complete for bash so."""
    add_completion_class(Bash, "bash")
