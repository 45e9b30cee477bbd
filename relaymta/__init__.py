"""relaymta: a mail relay on Twisted: safe, fast and explainable."""

__version__ = "0.1.0"
