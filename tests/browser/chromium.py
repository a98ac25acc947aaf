"""Headless Chromium over its DevTools protocol, with the standard library alone.

The protocol runs through a pair of pipes (--remote-debugging-pipe): JSON messages that end in a NUL
byte, commands on file descriptor 3, answers and events on 4. The browser has no network: names do
not resolve, and every page is emulated as offline.
"""
import json
import os
import pathlib
import select
import shutil
import subprocess
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
         "headless_shell")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--no-first-run", "--no-default-browser-check", "--disable-extensions", "--mute-audio",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--autoplay-policy=no-user-gesture-required",
         "--remote-debugging-pipe")


def find():
    """The path of a Chromium that starts, or None. Ubuntu's package of that name does not."""
    for name in (os.environ.get("DRAFTATTN_BROWSER"), *NAMES):
        path = name and shutil.which(name)
        if not path:
            continue
        try:
            done = subprocess.run([path, "--version"], capture_output=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0 and b"Chrom" in done.stdout:
            return path
    return None


class Browser:
    def __init__(self, path):
        self.folder = tempfile.mkdtemp(prefix="draftattn-browser-")
        commands, self.out = os.pipe()
        self.answers, events = os.pipe()

        def place_pipes():
            # Through high numbers, so that neither overwrites the other.
            high_in, high_out = os.dup2(commands, 100), os.dup2(events, 101)
            os.dup2(high_in, 3)
            os.dup2(high_out, 4)

        self.process = subprocess.Popen(
            [path, *FLAGS, f"--user-data-dir={self.folder}", "about:blank"], pass_fds=(3, 4),
            preexec_fn=place_pipes, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={**os.environ, "HOME": self.folder})
        os.close(commands)
        os.close(events)
        self.buffer, self.last, self.events = b"", 0, []

    def close(self):
        os.close(self.out)
        try:
            self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.answers)
        shutil.rmtree(self.folder, ignore_errors=True)

    def receive(self, seconds):
        """The next message, or None where none comes in time."""
        until = time.monotonic() + seconds
        while b"\0" not in self.buffer:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.answers], [], [], left)[0]:
                return None
            part = os.read(self.answers, 1 << 16)
            if not part:
                raise RuntimeError("the browser has gone")
            self.buffer += part
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def command(self, method, session=None, seconds=30, **parameters):
        self.last += 1
        message = {"id": self.last, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + seconds
        while True:
            answer = self.receive(until - time.monotonic())
            if answer is None:
                raise RuntimeError(f"{method}: no answer in {seconds} s")
            if "id" not in answer:
                self.events.append(answer)
            elif answer["id"] == self.last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def wait_for(self, method, session, seconds=30):
        until = time.monotonic() + seconds
        while not any(event["method"] == method and event.get("sessionId") == session
                      for event in self.events):
            event = self.receive(until - time.monotonic())
            if event is None:
                raise RuntimeError(f"{method} did not come in {seconds} s")
            self.events.append(event)


class Page:
    """One tab with one file; everything it complains of or asks for is kept."""

    def __init__(self, browser, width):
        self.browser = browser
        target = browser.command("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.command("Target.attachToTarget", targetId=target,
                                       flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")
        self.command("Network.emulateNetworkConditions", offline=True, latency=0,
                     downloadThroughput=0, uploadThroughput=0)
        self.resize(width)

    def command(self, method, **parameters):
        return self.browser.command(method, self.session, **parameters)

    def resize(self, width):
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=900,
                     deviceScaleFactor=1, mobile=False)

    def open(self, path):
        self.command("Page.navigate", url=pathlib.Path(path).as_uri())
        self.browser.wait_for("Page.loadEventFired", self.session)

    def run(self, script):
        """The value of the body of an async function."""
        answer = self.command("Runtime.evaluate", expression=f"(async () => {{ {script} }})()",
                              awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"].get("exception")))
        return answer["result"].get("value")

    def events(self):
        return [event for event in self.browser.events if event.get("sessionId") == self.session]

    def complaints(self):
        """Errors and warnings of the console, scripts and the log."""
        found = []
        for event in self.events():
            parameters = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(parameters["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled":
                found.append(str(parameters["args"]))
            elif event["method"] == "Log.entryAdded" and \
                    parameters["entry"]["level"] in ("error", "warning"):
                found.append(parameters["entry"]["text"])
        return found

    def requests(self):
        """What was asked for, data and blobs left out."""
        urls = [event["params"]["request"]["url"] for event in self.events()
                if event["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]
