"""pymssql: FreeTDS's socket, which is hidden; each connect opens just one (and an eventfd, by which it is cancelled).

What a child's deallocation and ``close()`` say depends on FreeTDS: without encryption it just closes the socket, under
TLS it says goodbye to that.

Unverified against a real SQL Server: checked with pymssql 2.3 and a server of the tests' own that answers yes to
everything, for the life-cycle of its objects.
"""

from __future__ import annotations

from pidpool.drivers import Driver

DRIVER = Driver("pymssql", opens_a_socket=True)
