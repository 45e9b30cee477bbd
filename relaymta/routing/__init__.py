"""Where a recipient's mail goes; it looks up and answers, and never connects."""
