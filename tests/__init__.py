"""Tests mirror relaymta/: one folder a room; peers/ holds the ones that talk to other people's programs."""
