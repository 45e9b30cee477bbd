"""The operator's window into the running daemon; it shows and asks, and decides nothing about mail."""
