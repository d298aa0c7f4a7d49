"""Benchmarks: ``python -m bench`` or ``make bench``.

Each figure stands beside a raw baseline that was measured in the same run, in turns with it, because machines are
noisy. Everything that is measured executes in fresh processes: `inside` for Stepwell, `peers` for other engines, both
asked by `workloads`.
"""
