"""Other engines on the same workloads: one module each, with the phases that `bench.inside` has for Stepwell."""
