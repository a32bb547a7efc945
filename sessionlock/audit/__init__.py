"""Does an application lose updates? Found out from the commands that it sends to Redis, as ``MONITOR`` shows them.

No I/O here: :class:`~sessionlock.audit.detector.Detector` is fed lines and gives a verdict. ``sessionlock audit``
reads them from a server or a file.
"""
