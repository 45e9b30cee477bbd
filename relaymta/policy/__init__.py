"""What we think of a message: one file a check; it judges and never acts."""
