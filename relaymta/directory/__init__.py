"""What the operator tells us: accounts and tables; it answers questions about names and never judges mail."""
