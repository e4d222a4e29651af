"""A run that was killed three times, a TensorBoard that watched it, and a headless Chromium."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

#: A process is killed after this line of its log. Each is past the newest checkpoint, which lies at a multiple of 100.
KILLED_AT = ("step 160", "step 240", "step 360")
RUN = (
    *("train", "--model=cnn", "--train_steps=400", "--log_every=20", "--eval_every=50", "--checkpoint_every=100"),
    *("--pictures_every=100", "--histograms_every=200", "--log_norms", "--progress=plain", "--steps_per_call=10"),
)


@dataclasses.dataclass(frozen=True)
class Page:
    """A page in the browser."""

    driver: Any

    def open(self, address: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Opens an address in a window of this size. A width below 600 pixels is that of a phone."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(address)

    def text(self) -> str:
        """The text of the page, including the text inside shadow roots."""
        return self.driver.execute_script(
            """
            const walk = node => node.nodeType === Node.TEXT_NODE ? node.data :
                ['STYLE', 'SCRIPT'].includes(node.nodeName) ? '' :
                [...(node.shadowRoot ? node.shadowRoot.childNodes : []), ...node.childNodes].map(walk).join(' ');
            return walk(document.body);
            """
        )

    def all(self, selector: str) -> list[Any]:
        """The elements that match a selector, including those inside shadow roots."""
        return self.driver.execute_script(
            """
            const found = [];
            const walk = root => {
                found.push(...root.querySelectorAll(arguments[0]));
                root.querySelectorAll('*').forEach(node => node.shadowRoot && walk(node.shadowRoot));
            };
            walk(document);
            return found;
            """,
            selector,
        )

    def wait_for(self, condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        """Waits until a condition holds, and returns what it gave."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, seconds).until(lambda driver: condition(), f"the page shows no {what}")

    def errors(self) -> list[str]:
        """The errors in the browser's console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def screenshot(self, path: pathlib.Path) -> None:
        self.driver.save_screenshot(str(path))


def unavailable() -> str | None:
    """Why no browser can run here; None where one can."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(missing)} not found: `make browser` installs them as root on Debian" if missing else None


@pytest.fixture(scope="session")
def page() -> Iterator[Page]:
    """A headless Chromium. Without one, the tests fail in CI and are skipped elsewhere."""
    reason = unavailable()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    yield Page(driver)
    driver.quit()


@pytest.fixture(scope="session")
def screenshots(repository: pathlib.Path) -> pathlib.Path:
    """The folder for screenshots."""
    folder = repository / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of runs that TensorBoard watches."""
    return tmp_path_factory.mktemp("watched") / "runs"


@pytest.fixture(scope="session")
def server(runs: pathlib.Path) -> Iterator[str]:
    """The address of a TensorBoard that watches the folder of runs. It starts before the first run."""
    runs.mkdir()
    command = [str(pathlib.Path(sys.executable).with_name("tensorboard")), f"--logdir={runs}", "--host=127.0.0.1"]
    command += ["--port=0", "--reload_interval=1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "http://" in line)
        yield f"http://{line.partition('http://')[2].split('/')[0]}"
        process.terminate()


@pytest.fixture(scope="session")
def killed_run(server: str, runs: pathlib.Path, installed: Any, mnist_dir: pathlib.Path) -> pathlib.Path:
    """The folder of a run that was killed three times and went on each time, while TensorBoard watched."""
    command, environment = installed
    argv = [command, *RUN, f"--data_dir={mnist_dir}", f"--workdir={runs / 'killed'}"]
    for mark in KILLED_AT:
        with subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            next(line for line in process.stderr if line.startswith(f"{mark}  train"))
            os.kill(process.pid, signal.SIGKILL)
    subprocess.run(argv, env=environment, capture_output=True, check=True)
    return runs / "killed"


@pytest.fixture(scope="session")
def other_run(killed_run: pathlib.Path, installed: Any, mnist_dir: pathlib.Path) -> pathlib.Path:
    """A second run beside it, with a different model and learning rate."""
    command, environment = installed
    folder = killed_run.with_name("other")
    argv = [command, *RUN, "--model=mlp", "--learning_rate=0.003", "--train_steps=200", f"--data_dir={mnist_dir}"]
    subprocess.run([*argv, f"--workdir={folder}"], env=environment, capture_output=True, check=True)
    return folder


@pytest.fixture(scope="session")
def records(killed_run: pathlib.Path) -> list[dict[str, Any]]:
    """What metrics.jsonl says of the killed run."""
    return [json.loads(line) for line in (killed_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
