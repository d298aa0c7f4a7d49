"""Where runs live: the protocol that a store fulfils, and the stores."""
