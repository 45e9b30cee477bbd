"""The wires: name look-ups, transports, TLS; it knows no message and no queue."""
