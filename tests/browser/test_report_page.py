"""The report, opened as a file in a browser: it fits the window, logs no errors, and requests nothing else."""

import json
import pathlib
import subprocess
from typing import Any

import pytest

WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def reports(
    killed_run: pathlib.Path, other_run: pathlib.Path, installed: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, pathlib.Path]:
    """The reports of one run, and of two side by side."""
    folder = tmp_path_factory.mktemp("reports")
    made = {}
    for name, runs in (("one", [killed_run]), ("two", [killed_run, other_run])):
        made[name] = folder / f"{name}.html"
        words = [f"--workdir={','.join(map(str, runs))}", f"--output={made[name]}"]
        subprocess.run([installed[0], "report", *words], env=installed[1], capture_output=True, check=True)
    return made


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_report_fits_is_quiet_and_asks_for_nothing(
    page: Any, reports: dict[str, pathlib.Path], screenshots: pathlib.Path, name: str, width: int, dark: bool
) -> None:
    page.open("about:blank")
    page.errors()
    page.driver.get_log("performance")
    page.open(reports[name].as_uri(), width=width, dark=dark)
    assert page.errors() == []
    asked = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    requests = [m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"]
    assert reports[name].as_uri() in requests
    assert [url for url in requests if not url.startswith(("data:", reports[name].as_uri()))] == []
    wide, height = page.driver.execute_script(
        "return [document.scrollingElement.scrollWidth, document.scrollingElement.scrollHeight]"
    )
    assert wide == width
    assert outside(page) == []
    page.open(reports[name].as_uri(), width=width, height=min(height, 9000), dark=dark)
    page.screenshot(screenshots / f"report_{name}_{width}_{'dark' if dark else 'light'}.png")


def outside(page: Any) -> list[str]:
    """Elements that stick out of the window, except those inside a box that scrolls."""
    return page.driver.execute_script(
        """
        return [...document.querySelectorAll('main *')]
            .filter(node => !node.closest('.scroll') && !node.closest('svg *'))
            .filter(node => node.getBoundingClientRect().right > innerWidth + 0.5)
            .map(node => node.outerHTML.slice(0, 80));
        """
    )


def test_report_shows_what_the_run_was(page: Any, reports: dict[str, pathlib.Path]) -> None:
    page.open(reports["one"].as_uri())
    text = page.text()
    for part in ("cnn on mnist_5k", "finished after step 400", "Confusion", "Surest mistakes", "Calibration"):
        assert part in text
    for part in ("4 processes worked on this run", "--learning_rate", "conv2d", "model.h5", "tensorflow version"):
        assert part in text
    images = page.driver.execute_script("return [...document.images].map(image => image.naturalWidth)")
    assert len(images) > 2
    assert min(images) > 20


def test_runs_stand_side_by_side_with_their_differences(page: Any, reports: dict[str, pathlib.Path]) -> None:
    page.open(reports["two"].as_uri())
    rows = page.driver.execute_script(
        "return [...document.querySelectorAll('.scroll tr')].map(row => [...row.cells].map(cell => cell.innerText))"
    )
    assert ["model", "cnn", "mlp"] in rows
    assert ["learning_rate", "0.001", "0.003"] in rows
    assert not [row for row in rows if row[:1] == ["batch_size"]]


def test_printed_report_is_light(page: Any, reports: dict[str, pathlib.Path]) -> None:
    page.open(reports["one"].as_uri(), dark=True)
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    colour = page.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert colour == "rgb(255, 255, 255)"
    pdf = page.driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    assert len(pdf["data"]) > 50_000
