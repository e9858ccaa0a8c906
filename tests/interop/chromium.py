"""A real browser: Chromium without a window, told what to do by WebDriver (https://www.w3.org/TR/webdriver2/)."""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.interop.deployment import free_port

DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
PATIENCE = 30.0
"""Seconds in which what is waited for must be there."""


class Chromium:
    """One browser with a profile of its own, that speaks a language and is as wide as a phone."""

    def __init__(self, folder: Path, language: str = "en", width: int = 360) -> None:
        self.folder = folder
        self._language = language
        self._width = width
        self._port = free_port()
        self._session = ""

    def __enter__(self) -> Self:
        assert DRIVER
        assert BROWSER
        self._log = (self.folder / "chromedriver.log").open("wb")
        self._driver = subprocess.Popen([DRIVER, f"--port={self._port}"], stdout=self._log, stderr=self._log)
        self._until(lambda: self._is_ready())
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--ignore-certificate-errors"]
        flags += [f"--accept-lang={self._language}", f"--lang={self._language}"]
        chosen = {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": BROWSER, "args": [*flags, f"--user-data-dir={self.folder}/profile"]},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        self._session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": chosen}})["sessionId"]
        shape = {"width": self._width, "height": 740, "deviceScaleFactor": 1, "mobile": True}
        self._do("POST", "/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": shape})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session:
            self._ask("DELETE", f"/session/{self._session}")
        self._driver.terminate()
        self._driver.wait()
        self._log.close()

    def _is_ready(self) -> bool:
        try:
            return bool(self._ask("GET", "/status")["ready"])
        except OSError:
            return False

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        data = None if method != "POST" else json.dumps(body or {}).encode()
        request = Request(
            f"http://127.0.0.1:{self._port}{path}", data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except HTTPError as error:
            raise AssertionError(f"{path}: {error.read().decode()[:1000]}") from None

    def _do(self, method: str, path: str, body: object = None) -> Any:
        return self._ask(method, f"/session/{self._session}{path}", body)

    @staticmethod
    def _until(there: Callable[[], Any]) -> Any:
        ends = time.monotonic() + PATIENCE
        while not (found := there()):
            assert time.monotonic() < ends, "it did not come"
            time.sleep(0.05)  # WebDriver has no way to be told
        return found

    # what a person does

    def opens(self, address: str) -> None:
        """Type an address."""
        self._do("POST", "/url", {"url": address})

    def types(self, **fields: str) -> None:
        """Fill in fields by their names."""
        for name, text in fields.items():
            element = self._element(f"[name={name}]")
            self._do("POST", f"/element/{element}/clear")
            self._do("POST", f"/element/{element}/value", {"text": text})

    def presses(self, what: str) -> None:
        """Press the button or link with these words, and wait until the page has gone."""
        path = f"//*[self::button or self::a][normalize-space()={json.dumps(what, ensure_ascii=False)}]"
        button = self._element(path, "xpath")
        self._run("window.here = true")
        self._do("POST", f"/element/{button}/click")
        self._until(lambda: not self._run("return window.here || document.readyState !== 'complete'"))

    def chooses(self, name: str, value: str) -> None:
        """Choose one of several values of a field."""
        element = self._element(f"[name={name}][value={json.dumps(value)}]")
        self._do("POST", f"/element/{element}/click")

    def before_each_page(self, script: str) -> None:
        """Run a script before whatever a page runs, as whoever opened the page could."""
        params = {"source": script}
        command = {"cmd": "Page.addScriptToEvaluateOnNewDocument", "params": params}
        self._do("POST", "/goog/cdp/execute", command)

    def _element(self, selector: str, using: str = "css selector") -> str:
        return str(self._do("POST", "/element", {"using": using, "value": selector})[ELEMENT])

    def _run(self, script: str) -> Any:
        return self._do("POST", "/execute/sync", {"script": script, "args": []})

    # what a person sees

    @property
    def address(self) -> str:
        """Where the browser is."""
        return str(self._do("GET", "/url"))

    @property
    def text(self) -> str:
        """What the page says."""
        return str(self._run("return document.body.innerText"))

    @property
    def direction(self) -> str:
        """In which direction the page is written."""
        return str(self._run("return getComputedStyle(document.querySelector('main')).direction"))

    def direction_of(self, selector: str) -> str:
        """In which direction a part of the page is written."""
        return str(self._run(f"return getComputedStyle(document.querySelector({json.dumps(selector)})).direction"))

    @property
    def title(self) -> str:
        """What the page is called."""
        return str(self._run("return document.title"))

    @property
    def styled(self) -> bool:
        """Whether the page has its style, and nothing of it stands out of the window."""
        border = "getComputedStyle(document.querySelector('main')).borderRadius !== '0px'"
        return bool(self._run(f"return {border} && document.documentElement.scrollWidth <= window.innerWidth"))

    def complaints(self) -> list[str]:
        """What the browser had to say of the pages since the last time."""
        said = self._do("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in said if "favicon" not in entry["message"]]

    def picture(self, path: Path) -> None:
        """Keep what is seen."""
        path.write_bytes(base64.b64decode(self._do("GET", "/screenshot")))
