"""A page in a real Chromium without a window, driven by selenium through Debian's chromium-driver."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
MISSING = "" if CHROMIUM and DRIVER else "Chromium and its driver are not installed (apt install chromium-driver)"


class Page:
    """A page that has loaded.

    requests: the addresses it fetched; complaints: the warnings, errors and messages in its console.
    """

    def __init__(self, driver):
        self._driver = driver
        events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        self.requests = [params["request"]["url"] for params in sent]
        self.complaints = driver.get_log("browser")

    def evaluate(self, expression: str):
        """The value of a JavaScript expression on the page."""
        return self._driver.execute_script(f"return ({expression})")

    def wait(self, promise: str):
        """What a JavaScript promise on the page comes to."""
        return self._driver.execute_async_script(f"({promise}).then(arguments[arguments.length - 1])")

    def press(self, element: str, key: str) -> None:
        """Press a key, such as "LEFT" or "SPACE", on the element with this id, and let the page draw."""
        from selenium.webdriver.common.by import By
        from selenium.webdriver.common.keys import Keys

        self._driver.find_element(By.ID, element).send_keys(getattr(Keys, key))
        self.wait("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


@contextmanager
def open_page(file: Path, width: int, dark: bool = False) -> Iterator[Page]:
    """Open a file in a browser of its own, `width` CSS pixels wide, in the light or dark colour scheme."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options, ChromeService(DRIVER))  # given its path, selenium does not search the network for one
    try:
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        driver.get(file.as_uri())
        yield Page(driver)
    finally:
        driver.quit()
