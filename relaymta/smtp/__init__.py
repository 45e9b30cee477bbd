"""The dialogue, both sides: sans-IO machines and their Twisted shells; it judges nothing."""
