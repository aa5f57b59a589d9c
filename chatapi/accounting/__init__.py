"""Who may, how much, and what it was: keys, limits, the ledger of calls."""
