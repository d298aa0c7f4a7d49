"""What else can happen to processes that share a file, one module for each kind; `proof.processes` plays them all."""
