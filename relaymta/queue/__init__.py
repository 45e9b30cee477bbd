"""What waits, and when: the ledger of every accepted message; it never speaks to the network."""
