"""Tells twistd that `relaymta` exists; the module that makes it is named, not imported.

twistd imports every plugin file for each `twistd --help`, so nothing of ours may be loaded here. There is no
`__init__.py` in `twisted/` or `twisted/plugins/`: these folders are parts of Twisted's own packages.
"""

from twisted.application.service import ServiceMaker

relaymta = ServiceMaker("relaymta", "relaymta.service", "A mail relay: in by SMTP, a safe queue, out.", "relaymta")
