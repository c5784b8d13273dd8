"""Keep-alive connections of http.client, and plain sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.family import WAYS, assert_quiet, script
from tests.servers.process import make_certificate

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunScript

each_way = pytest.mark.parametrize("how", WAYS)

PREPARED = script("""
import gc, http.client, http.server, os, signal, socket, ssl, sys, threading
from pidpool import InheritedConnectionError, PerProcess
from tests.family import child, fork

how = sys.argv[1]

class Handler(http.server.BaseHTTPRequestHandler):
    '''Answers with the path, on connections that are kept.'''
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.path)))
        self.end_headers()
        self.wfile.write(self.path.encode())
    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
host, port = server.server_address

def connect():
    if len(sys.argv) < 3:
        return http.client.HTTPConnection(host, port, timeout=5)
    context = ssl.create_default_context(cafile=sys.argv[2])
    return http.client.HTTPSConnection(host, port, timeout=5, context=context)
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()

def answer(connection):
    return connection.getresponse().read().decode()

def get(connection, path):
    connection.request("GET", path)
    return answer(connection)
""")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    make_certificate(folder / "certificate.pem", folder / "key.pem")
    return folder / "certificate.pem", folder / "key.pem"


@each_way
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_each_process_reads_its_own_answers(
    run_script: RunScript, certificate: tuple[Path, Path], scheme: str, how: str
) -> None:
    source = """
connections = PerProcess(connect)
mine = connections.get()
assert get(mine, "/parent/1") == "/parent/1"
ours = mine.sock.getsockname()
mine.request("GET", "/parent/2")  # the answer is on its way
def own():
    assert get(connections.get(), "/child") == "/child"
    assert connections.get().sock.getsockname() != ours
    connections.close()
def use():
    for action in (mine.getresponse, lambda: mine.request("GET", "/nobody")):
        try:
            action()
        except (InheritedConnectionError, http.client.CannotSendRequest):
            pass
        else:
            raise AssertionError("it was let through")
def close():
    mine.close()
    connections.close()
def drop():
    global mine, connections
    if how == "hookless":
        connections.get()
    del mine, connections
    gc.collect()
for deed in (own, use, close, drop):
    child(deed, how=how)
child(how=how, leave="sys.exit")
assert answer(mine) == "/parent/2"
assert get(mine, "/parent/3") == "/parent/3"
assert mine.sock.getsockname() == ours, "it had to connect again"
connections.close()
"""
    paths = [str(path) for path in certificate] if scheme == "https" else []
    assert_quiet(run_script(PREPARED + source, how, *paths))


@each_way
def test_a_response_that_is_half_read_at_fork_is_the_parents(run_script: RunScript, how: str) -> None:
    source = """
connections = PerProcess(connect)
mine = connections.get()
mine.request("GET", "/0123456789")
response = mine.getresponse()
assert response.read(1) == b"/" and type(response).__name__ == "HTTPResponse"
def use():
    for action in (response.read, lambda: response.read(1), lambda: response.readinto(bytearray(3)), response.readline,
                   response.peek, response.read1, lambda: next(iter(response))):
        try:
            action()
        except InheritedConnectionError:
            pass
        else:
            raise AssertionError("it was let through")
    response.close()
def drop():
    global response
    del response
for deed in (use, drop):
    child(deed, how=how)
child(how=how, leave="sys.exit")
assert response.read() == b"0123456789" and get(mine, "/next") == "/next"
"""
    assert_quiet(run_script(PREPARED + source, how))


@pytest.mark.parametrize("noted", [True, False])
def test_a_number_that_was_reused_after_a_c_level_fork_is_left_alone(run_script: RunScript, noted: bool) -> None:  # noqa: FBT001 - a parameter
    source = """
connections = PerProcess(connect)
mine = connections.get()
assert get(mine, "/parent/1") == "/parent/1"
if NOTED:
    child()  # the client is asked for its sockets before an ordinary fork
def daemonize():
    number = mine.sock.fileno()
    os.close(number)
    own, far = socket.socketpair()
    assert own.fileno() == number
    connections.get()
    own.sendall(b"own")
    assert far.recv(10) == b"own"
child(daemonize, how="hookless")
assert get(mine, "/parent/2") == "/parent/2"
"""
    assert_quiet(run_script(f"NOTED = {noted}\n{PREPARED}{source}", "hookless"))


def test_without_it_the_parent_reads_the_childs_answer(run_script: RunScript) -> None:
    source = """
mine = connect()
get(mine, "/warm")
reading, writing = os.pipe()
pid = fork()
if pid == 0:
    mine.request("GET", "/child")
    os.write(writing, b"!")
    os._exit(0)
os.read(reading, 1)
mine.request("GET", "/parent")
assert answer(mine) == "/child"
"""
    assert_quiet(run_script(PREPARED + source, "fork"))


SOCKETS = """
listener = socket.create_server(("127.0.0.1", 0))
sockets = PerProcess(lambda: socket.create_connection(listener.getsockname()))

def hears(far):
    far.settimeout(0.2)
    try:
        return far.recv(100)
    except OSError:
        return None
"""


@each_way
def test_a_socket_of_the_parents_carries_only_what_the_parent_says(run_script: RunScript, how: str) -> None:
    source = """
mine = sockets.get()
far, _ = listener.accept()
buffered = mine.makefile("wb")
buffered.write(b"half ")
def speak():
    if how == "hookless":
        sockets.get()
    for action in (lambda: mine.sendall(b"child"), lambda: mine.shutdown(socket.SHUT_RDWR), buffered.close):
        try:
            action()
        except OSError:
            pass
def own():
    sockets.get().sendall(b"child")
    sockets.close()
for deed in (speak, own):
    child(deed, how=how)
child(how=how, leave="sys.exit") if how == "fork" else None
buffered.write(b"parent")
buffered.flush()
assert hears(far) == b"half parent"
"""
    assert_quiet(run_script(PREPARED + SOCKETS + source, how))


def test_without_it_a_child_speaks_for_the_parent_and_hangs_up(run_script: RunScript) -> None:
    source = """
mine = sockets._factory()
far, _ = listener.accept()
buffered = mine.makefile("wb")
buffered.write(b"half ")
def speak():
    buffered.flush()
    mine.shutdown(socket.SHUT_RDWR)
child(speak)
assert hears(far) == b"half " and hears(far) == b""
try:
    buffered.close()
except OSError:
    pass
else:
    raise AssertionError("this proves nothing")
"""
    assert_quiet(run_script(PREPARED + SOCKETS + source, "fork"))
