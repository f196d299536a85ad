"""Real keys and certificates, made by `openssl` when a test asks for them, and sockets that use them.

    authority = Authority(folder)
    edge = authority.issue("edge")          # edge.certificate, edge.key: files
    context = authority.context()           # an ssl.SSLContext that believes this authority alone
"""

import contextlib
import pathlib
import select
import socket
import ssl
import subprocess
import threading

CA_CONFIG = """
[ca]
default_ca = it
[it]
database = {folder}/index.txt
serial = {folder}/serial
new_certs_dir = {folder}
certificate = {folder}/ca.pem
private_key = {folder}/ca.key
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
x509_extensions = issued
[issued]
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[any]
commonName = supplied
"""


def openssl(*arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"openssl {arguments}: {done.stderr}"
    return done.stdout


class Issued:
    def __init__(self, certificate, key):
        self.certificate, self.key = certificate, key
        self.options = {"tls_certificate": str(certificate), "tls_key": str(key)}

    def copy_over(self, other):
        """Puts these in the place of others, as a renewal does: key first, each at once."""
        for mine, theirs in ((self.key, other.key), (self.certificate, other.certificate)):
            fresh = theirs.with_suffix(".new")
            fresh.write_bytes(mine.read_bytes())
            fresh.rename(theirs)

    @property
    def serial(self):
        return openssl("x509", "-in", self.certificate, "-noout", "-serial").strip().split("=")[1]


class Authority:
    def __init__(self, folder, kind="ec"):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.kind = ["-newkey", "rsa:2048"] if kind == "rsa" else ["-newkey", "ec", "-pkeyopt",
                                                                   "ec_paramgen_curve:P-256"]
        self.certificate = self.folder / "ca.pem"
        # Python 3.13 holds certificates to RFC 5280, which wants a key usage here and the authority's key named there.
        openssl("req", "-x509", *self.kind, "-noenc", "-days", 30, "-subj", "/CN=an authority of a test",
                "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", self.folder / "ca.key", "-out", self.certificate)
        self.issued = 0
        (self.folder / "index.txt").touch()
        (self.folder / "serial").write_text("1000\n")
        self.config = self.folder / "ca.cnf"
        self.config.write_text(CA_CONFIG.format(folder=self.folder))

    def issue(self, name, names="IP:127.0.0.1,DNS:localhost", begins=None, ends=None):
        """`begins`, `ends`: as 20200131000000Z; now and in ten days otherwise."""
        self.issued += 1
        key, request, certificate = (self.folder / f"{name}{self.issued}.{end}" for end in ("key", "csr", "pem"))
        openssl("req", *self.kind, "-noenc", "-subj", f"/CN={name}", "-addext", f"subjectAltName={names}",
                "-keyout", key, "-out", request)
        dates = ["-startdate", begins, "-enddate", ends] if ends else ["-days", 10]
        openssl("ca", "-batch", "-notext", "-config", self.config, *dates, "-in", request, "-out", certificate)
        return Issued(certificate, key)

    def context(self):
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context


class TlsSocket:
    """What ws_client.py uses of a socket, through TLS. Its reader and its writers are different threads, and an SSL
    object may be used by one at a time: so nothing waits within it."""

    def __init__(self, plain, context, name="127.0.0.1"):
        self._tls = context.wrap_socket(plain, server_hostname=name)
        self._tls.setblocking(False)
        self._lock = threading.Lock()
        self._timeout = None

    def settimeout(self, timeout):
        self._timeout = timeout

    def recv(self, size):
        while True:
            with self._lock, contextlib.suppress(ssl.SSLWantReadError):
                return self._tls.recv(size)
            if not select.select([self._tls], [], [], self._timeout)[0]:
                raise socket.timeout("timed out")

    def sendall(self, data):
        view = memoryview(data)
        while view:
            with self._lock, contextlib.suppress(ssl.SSLWantWriteError):
                view = view[self._tls.send(view):]
                continue
            if not select.select([], [self._tls], [], self._timeout)[1]:
                raise socket.timeout("timed out")

    def shutdown(self, how):
        socket.socket.shutdown(self._tls, how)  # Of the connection alone: the reader still uses the rest.

    def setsockopt(self, *arguments):
        self._tls.setsockopt(*arguments)

    def close(self):
        self._tls.close()

    def __getattr__(self, name):  # version(), getpeercert(), ...
        return getattr(self._tls, name)
