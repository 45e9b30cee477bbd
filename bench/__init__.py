"""relaymta and Postfix side by side on one machine: an own generator, an own sink, and a table of ratios."""
