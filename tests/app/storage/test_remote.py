"""What may be fetched from where, against servers on this machine."""

import contextlib
import http.server
import socket
import threading

import pytest

from app.problems import AddressRefused, AddressUnreachable, FileTooLarge
from app.storage import remote
from app.storage.remote import fetch
from app.storage.special_addresses import is_public


class Files(http.server.BaseHTTPRequestHandler):
    """`/file` is a file; `/to/URL` redirects; all else is missing."""

    def do_GET(self):
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path[len("/to/") :])
            self.end_headers()
        elif self.path == "/file":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"for {self.headers['Host']}".encode())
        else:
            self.send_error(404)

    def log_message(self, *_):
        pass


@pytest.fixture
def port():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def lookups(monkeypatch):
    """Looks up `public.example` as this machine, which passes for public once; counts lookups."""
    counts = {"public.example": 0}
    real = socket.getaddrinfo

    def look_up(host, port, *given, **named):
        if host in counts:
            counts[host] += 1
            return real("127.0.0.1", port, *given, **named)
        return real(host, port, *given, **named)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(remote, "is_public", lambda text: text == "127.0.0.1" or is_public(text))
    return counts


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1"])
def test_this_machine_is_not_fetched_from_whatever_it_is_called(host, port):
    with pytest.raises((AddressRefused, AddressUnreachable)) as caught:
        fetch(f"http://{host}:{port}/file", 1000)

    assert "for" not in str(caught.value).split()


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://host/file",
        "/file",
        "http://",
        "http://a:b@host/",
        "http://[::1",
    ],
)
def test_what_is_no_plain_web_address_is_refused(url):
    with pytest.raises(AddressRefused):
        fetch(url, 1000)


def test_a_file_comes_from_the_address_that_was_looked_at(port, lookups):
    assert (
        fetch(f"http://public.example:{port}/file", 1000) == f"for public.example:{port}".encode()
    )
    assert lookups["public.example"] == 1


def test_each_redirect_is_looked_at(port, lookups):
    base = f"http://public.example:{port}"

    assert fetch(f"{base}/to/{base}/file", 1000).startswith(b"for")
    assert lookups["public.example"] == 2
    with pytest.raises(AddressRefused, match=r"10\.1\.2\.3"):
        fetch(f"{base}/to/http://10.1.2.3/file", 1000)
    with pytest.raises(AddressRefused, match="not an http or https address"):
        fetch(f"{base}/to/file:///etc/passwd", 1000)
    with pytest.raises(AddressUnreachable, match="redirects more than 5 times"):
        fetch(f"{base}/to/" * 7 + "/file", 1000)


def test_a_file_that_is_too_large_or_missing_is_told(port, lookups):
    base = f"http://public.example:{port}"

    with pytest.raises(FileTooLarge):
        fetch(f"{base}/file", 3)
    with pytest.raises(AddressUnreachable, match="status 404"):
        fetch(f"{base}/none", 1000)


def test_nobody_there_is_told(lookups):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]

        with pytest.raises(
            AddressUnreachable, match=r"public.example did not answer: ConnectError"
        ):
            fetch(f"http://public.example:{port}/file", 1000)


@pytest.fixture
def dripping():
    """A server that sends a header byte by byte, for seconds, and then the rest of an answer."""

    def drip(connection):
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
            for _ in range(400):
                connection.sendall(b"x")
                if stopped.wait(0.05):
                    return
            connection.sendall(b"\r\nContent-Length: 0\r\n\r\n")

    def serve():
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                threads.append(threading.Thread(target=drip, args=(listener.accept()[0],)))
                threads[-1].start()

    threads, stopped = [], threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads.append(threading.Thread(target=serve))
        threads[0].start()
        yield listener.getsockname()[1]
        stopped.set()
        listener.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(
    ("host", "exchange"),
    [
        pytest.param("public.example", lambda url: fetch(url, 1000), id="fetch"),
        pytest.param("127.0.0.1", lambda url: remote.read(url, 1000, {}), id="read"),
        pytest.param("public.example", lambda url: remote.post(url, b"", {}), id="post"),
    ],
)
def test_who_sends_a_byte_now_and_then_is_left(dripping, lookups, monkeypatch, host, exchange):
    monkeypatch.setattr(remote, "TOTAL_S", 0.2)
    monkeypatch.setattr(remote, "POST_S", 0.2)

    with pytest.raises(AddressUnreachable, match=f"{host} is too slow: 0 s are over"):
        exchange(f"http://{host}:{dripping}/file")
