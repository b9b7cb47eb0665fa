"""What may be fetched from where, against servers on this machine."""

import http.server
import socket
import threading

import pytest

from app.problems import AddressRefused, AddressUnreachable, FileTooLarge
from app.storage import remote
from app.storage.remote import fetch


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
    real, judge = socket.getaddrinfo, remote._is_public

    def look_up(host, port, *given, **named):
        if host in counts:
            counts[host] += 1
            return real("127.0.0.1", port, *given, **named)
        return real(host, port, *given, **named)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(remote, "_is_public", lambda text: text == "127.0.0.1" or judge(text))
    return counts


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.17.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fe80::1%lo",
        "fd00::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_an_address_that_is_not_public_is_known_as_such(address):
    assert not remote._is_public(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:4700::1111", "64:ff9b::5db8:d70e"])
def test_a_public_address_is_known_as_such(address):
    assert remote._is_public(address)


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


def test_who_is_too_slow_is_left(port, lookups, monkeypatch):
    monkeypatch.setattr(remote, "TOTAL_S", -1.0)

    with pytest.raises(AddressUnreachable, match="too slow"):
        fetch(f"http://public.example:{port}/file", 1000)
