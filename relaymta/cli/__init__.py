"""The operator's hands: commands that speak to the admin socket; nothing of the daemon's inside."""
