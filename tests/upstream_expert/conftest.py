"""A web server with a checkpoint on it, which also stands in for Google Drive."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
from collections import Counter
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme

DRIVE, DRIVE_FILES = "drive.google.com", "drive.usercontent.google.com"

# What Google Drive shows instead of a file that is too large for its virus scanner; the form is one line.
CONFIRMATION_PAGE = f"""<!DOCTYPE html><html><body><p>Google Drive can't scan this file for viruses.</p>
<form id="download-form" action="https://{DRIVE_FILES}/download" method="get">\
<input type="submit" value="Download anyway"/><input type="hidden" name="id" value="{{id}}">\
<input type="hidden" name="export" value="download"><input type="hidden" name="confirm" value="t">\
</form></body></html>"""

QUOTA_PAGE = """<html><body><p class="uc-error-subcaption">Too many users have viewed or downloaded this
file recently.</p></body></html>""".replace("\n", " ")


class Web:
    """Serves `files` (path -> bytes) by plain HTTP, and Google Drive's pages as an HTTPS proxy.

    Attributes:
        files: content by URL path; for Google Drive, by id.
        hits: how often each path (or Drive file) was sent.
        cut: bytes to leave out at the end of each answer, as a broken connection would.
        over_quota: whether Google Drive shows its quota page.
    """

    def __init__(self, folder: Path):
        self.files: dict[str, bytes] = {}
        self.hits: Counter[str] = Counter()
        self.cut = 0
        self.over_quota = False
        authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(DRIVE, DRIVE_FILES).configure_cert(self.tls)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def as_drive(self) -> dict[str, str]:
        """Environment in which requests for Google Drive come here."""
        return {
            "HTTPS_PROXY": self.url,
            "https_proxy": self.url,
            "NO_PROXY": "",
            "REQUESTS_CA_BUNDLE": str(self.ca_file),
        }

    def _handler(web):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def do_CONNECT(self):
                self.send_response(200)
                self.end_headers()
                self.connection = web.tls.wrap_socket(self.connection, server_side=True)
                self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
                self.close_connection = False

            def do_GET(self):
                url = urlsplit(self.path)
                query = {key: values[0] for key, values in parse_qs(url.query).items()}
                host = self.headers["Host"].split(":")[0]
                if host == DRIVE:
                    page = QUOTA_PAGE if web.over_quota else CONFIRMATION_PAGE.format(id=query["id"])
                    self.answer(200, page.encode(), "text/html; charset=utf-8")
                elif host == DRIVE_FILES:
                    assert query["confirm"] == "t"
                    self.send_file(query["id"], disposition='attachment; filename="checkpoint.ckpt"')
                else:
                    self.send_file(url.path)

            def send_file(self, name, disposition=None):
                if name not in web.files:
                    self.answer(404, b"not here", "text/plain")
                    return
                web.hits[name] += 1
                self.answer(200, web.files[name], "application/octet-stream", disposition, web.cut)

            def answer(self, status, body, content_type, disposition=None, cut=0):
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                if disposition:
                    self.send_header("Content-Disposition", disposition)
                self.end_headers()
                self.wfile.write(body[: len(body) - cut])
                if cut:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True

        return Handler


@pytest.fixture
def web(tmp_path):
    web = Web(tmp_path)
    yield web
    web.server.shutdown()
    web.server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty download cache of s3prl's."""
    from s3prl.util import download

    folder = tmp_path / "cache"
    monkeypatch.setattr(download, "_download_dir", folder)
    return folder
