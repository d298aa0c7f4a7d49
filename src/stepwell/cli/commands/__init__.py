"""The commands, a file each: what may be written on the line, and what is done. `group.COMMANDS` lists them."""
