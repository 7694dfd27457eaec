"""A WebSocket client, as far as a chat needs one: text frames over a Unix socket."""

import base64
import os
import socket
import struct


class WebSocket:
    """A connection; `receive` gives texts. An OSError says that the server is gone."""

    def __init__(self, path, url, timeout):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.data = b""
        try:
            self.socket.connect(str(path))
            self.shake_hands(url)
        except BaseException:
            self.socket.close()
            raise

    def shake_hands(self, url):
        """Asks for the upgrade, and takes the answer."""
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall((
            f"GET {url} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n").encode())
        while b"\r\n\r\n" not in self.data:
            self.read()
        head, self.data = self.data.split(b"\r\n\r\n", 1)
        if b" 101 " not in head.splitlines()[0]:
            raise ConnectionError(f"no WebSocket: {head!r}")

    def read(self):
        """More bytes."""
        got = self.socket.recv(65536)
        if not got:
            raise ConnectionError("closed")
        self.data += got

    def send(self, text):
        """One masked frame."""
        body, mask = text.encode(), os.urandom(4)
        size = struct.pack("!B", 128 | len(body)) if len(body) < 126 else \
            struct.pack("!BH", 128 | 126, len(body))
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(body))
        self.socket.sendall(b"\x81" + size + mask + masked)

    def frame(self):
        """The next whole frame that has been read, as (kind, body), or None."""
        if len(self.data) < 2:
            return None
        kind, size, start = self.data[0] & 15, self.data[1] & 127, 2
        if size == 126:
            if len(self.data) < 4:
                return None
            size, start = struct.unpack("!H", self.data[2:4])[0], 4
        if len(self.data) < start + size:
            return None
        body, self.data = self.data[start:start + size], self.data[start + size:]
        return kind, body

    def receive(self, timeout):
        """The next text, or None if there is none in time."""
        self.socket.settimeout(timeout)
        while True:
            while (got := self.frame()) is None:
                try:
                    self.read()
                except TimeoutError:
                    return None
            if got[0] == 1:
                return got[1].decode()
            if got[0] == 8:
                raise ConnectionError("closed")

    def close(self):
        self.socket.close()
