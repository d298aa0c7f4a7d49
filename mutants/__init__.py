"""Mutants: one small change at a time in a module that decides, and whether any test notices.

Not part of the installed package, nor of CI: `make mutants`. `targets` says which modules are changed and which tests
may notice; `population` makes the changes, with cosmic-ray's operators; `swap` puts one into the functions of a running
process; `trial` runs the tests, each mutant in a forked process, so no file is ever changed; `known` holds the mutants
that no test needs to notice, each with its reason, and the table of them in docs/explanation/mutants.md.
"""
