"""The shelves: what is on stable storage and what a crash leaves; it holds bytes and never reads them."""
