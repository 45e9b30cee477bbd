"""What would become of a message, step by step with the reason of each; it decides nothing and sends nothing."""
