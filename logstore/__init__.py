"""logstore: an append-only log one can embed, and the engine of the broker."""
