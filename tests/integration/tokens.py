"""Tokens for the tests, and what must never be in a log.

Whatever makes a token or another secret calls keep_out_of_logs() with it; when a run ends, conftest.py looks for all of
them in every log of the run, and for anything else that has the form of a token.
"""

import base64
import hashlib
import hmac
import json
import re
import time

SECRET = "q8Zr2vW0xLk5TnB7yHc3MfJ6dPs9GaE1-uIoXtRb"
OTHER_SECRET = "another" * 8  # Of a forger.

secrets = set()
logs = set()   # Paths of the logs of every program that was started.
TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}")


def keep_out_of_logs(text):
    secrets.add(text)
    return text


keep_out_of_logs(SECRET)
keep_out_of_logs(OTHER_SECRET)


def token(*roles, lasts=600, subject="ann", secret=SECRET, **claims):
    def part(value):
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
    head = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    body = part(json.dumps({"sub": subject, "exp": time.time() + lasts, "roles": roles, **claims}).encode())
    signature = part(hmac.new(keep_out_of_logs(secret).encode(), f"{head}.{body}".encode(), hashlib.sha256).digest())
    keep_out_of_logs(signature)  # Without it a token is worth nothing.
    return keep_out_of_logs(f"{head}.{body}.{signature}")


def found_in(path):
    """(log, what) for each secret in it; what is told by its first six characters alone."""
    text = path.read_text(errors="replace") if path.exists() else ""
    hits = {secret for secret in secrets if secret in text} | set(TOKEN.findall(text))
    return [(str(path), hit[:6] + "...") for hit in sorted(hits)]


def found_in_logs():
    return [hit for path in sorted(logs) for hit in found_in(path)]
