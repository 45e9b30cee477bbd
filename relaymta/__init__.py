"""relaymta: a mail relay on Twisted: safe, fast and explainable."""
