"""A page in headless Chromium, driven over its DevTools protocol: no more than the browser test needs.

    with Page("http://127.0.0.1:12080/") as page:
        page.until("document.title === 'x'")
        page.problems, page.requests

One thread of its own runs the protocol's socket; everything here is called from the test's thread.
"""

import asyncio
import base64
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading
import time

PATIENCE = float(os.environ.get("SIGMACAST_PATIENCE", "1"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ANSWER_BYTES_MAX = 64 << 20  # A screenshot is a few megabytes.


class Page:
    def __init__(self, url, width=1200, height=900, dark=False, html=None):
        import websockets
        self.html = html  # Served at / instead of what the server has: for trying a change.
        self.problems = []   # Exceptions, console errors and warnings, refused resources.
        self.requests = []   # Address of everything that was asked for.
        self.folder = tempfile.mkdtemp(prefix="sigmacast-browser-")
        self.answers, self.number = {}, 0
        self.answered = threading.Condition()
        options = ["--headless=new", "--remote-debugging-port=0", "--no-first-run", "--disable-gpu", "--disable-extensions",
                   "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
                   "--no-proxy-server", f"--user-data-dir={self.folder}", f"--window-size={width},{height}"]
        if os.geteuid() == 0:
            options.append("--no-sandbox")  # Its sandbox refuses root.
        if html is not None:
            options.append("--disable-features=LocalNetworkAccessChecks")  # Which cannot tell where this page is from.
        self.log = open(pathlib.Path(self.folder) / "log", "wb")
        self.process = subprocess.Popen([CHROMIUM, *options, "about:blank"], stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log, start_new_session=True)
        try:
            self._join(websockets)
            target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
            self.session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.call(f"{domain}.enable")
            if html is not None:
                self.call("Fetch.enable", {"patterns": [{"urlPattern": url}]})
            self.resize(width, height, dark)
            self.call("Page.navigate", {"url": url})
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # The protocol -----------------------------------------------------------------------------------------------------
    def _join(self, websockets):
        file = pathlib.Path(self.folder) / "DevToolsActivePort"
        end = time.monotonic() + 30 * PATIENCE
        while not (file.exists() and len(file.read_text().split()) == 2):
            if self.process.poll() is not None or time.monotonic() > end:
                said = (pathlib.Path(self.folder) / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"Chromium does not start: {said}")
            time.sleep(0.05)
        port, path = file.read_text().split()
        self.loop = asyncio.new_event_loop()
        self.session = None
        joined = threading.Event()

        async def run():
            async with websockets.connect(f"ws://127.0.0.1:{port}{path}", max_size=ANSWER_BYTES_MAX) as self.socket:
                joined.set()
                try:
                    async for text in self.socket:
                        self._on(json.loads(text))
                except websockets.ConnectionClosed:
                    pass  # The browser was closed.
        threading.Thread(target=lambda: self.loop.run_until_complete(run()), daemon=True).start()
        assert joined.wait(20 * PATIENCE), "no connection to Chromium"

    def _on(self, message):
        method, params = message.get("method"), message.get("params", {})
        if "id" in message:
            with self.answered:
                self.answers[message["id"]] = message
                self.answered.notify_all()
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(" ".join(str(part.get("value")) for part in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        elif method in ("Network.requestWillBeSent", "Network.webSocketCreated"):
            self.requests.append(params.get("request", params)["url"])
        elif method == "Fetch.requestPaused":
            body = base64.b64encode(self.html.encode()).decode()
            self._send("Fetch.fulfillRequest", {"requestId": params["requestId"], "responseCode": 200, "body": body,
                                                "responseHeaders": [{"name": "Content-Type", "value": "text/html"}]})

    def _send(self, method, params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params or {}}
        if self.session:
            message["sessionId"] = self.session
        asyncio.run_coroutine_threadsafe(self.socket.send(json.dumps(message)), self.loop)
        return self.number

    def call(self, method, params=None):
        number = self._send(method, params)
        with self.answered:
            assert self.answered.wait_for(lambda: number in self.answers, 20 * PATIENCE), f"no answer to {method}"
            answer = self.answers.pop(number)
        assert "error" not in answer, answer
        return answer["result"]

    # The page ---------------------------------------------------------------------------------------------------------
    def evaluate(self, expression):
        answer = self.call("Runtime.evaluate", {"expression": expression, "returnByValue": True, "awaitPromise": True})
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def text(self, selector="body"):
        return self.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map(n => n.innerText).join('\\n')")

    def until(self, expression, timeout=10):
        """Until a JavaScript expression is true; one that cannot be evaluated is not yet."""
        end = time.monotonic() + timeout * PATIENCE
        while True:
            value = self.evaluate(f"(() => {{ try {{ return !!({expression}) }} catch (error) {{ return false }} }})()")
            if value:
                return value
            assert time.monotonic() < end, f"not within {timeout} s: {expression}; the page shows:\n{self.text()[:3000]}"
            time.sleep(0.05)

    def resize(self, width, height=900, dark=False, reduced_motion=False):
        self.call("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1,
                                                         "mobile": False})
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
                    {"name": "prefers-reduced-motion", "value": "reduce" if reduced_motion else "no-preference"}]
        self.call("Emulation.setEmulatedMedia", {"features": features})

    def screenshot(self, path):
        data = self.call("Page.captureScreenshot", {"captureBeyondViewport": True})["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(data))

    def press(self, key, code=None, text=None):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", {"type": kind, "key": key, "code": code or key,
                                                 **({"text": text} if text and kind == "keyDown" else {}),
                                                 **({"windowsVirtualKeyCode": 9} if key == "Tab" else {})})
