"""What TensorBoard shows of a run that was killed three times and of a second run beside it."""

import pathlib
from typing import Any


def test_scalars_of_train_and_eval_share_a_chart(
    server: str, killed_run: pathlib.Path, other_run: pathlib.Path, page: Any, screenshots: pathlib.Path
) -> None:
    page.open(f"{server}/?darkMode=false&smoothing=0&tagFilter=%5E(loss%7Caccuracy)%24#timeseries", width=1440)
    page.wait_for(lambda: len(page.all("scalar-card line-chart svg, scalar-card line-chart canvas")) >= 2, "charts")
    for run in ("killed/tensorboard/train", "killed/tensorboard/eval", "other/tensorboard/train"):
        page.wait_for(lambda run=run: run in page.text(), run)
    page.wait_for(lambda: "loss" in page.text() and "accuracy" in page.text(), "loss and accuracy")
    page.screenshot(screenshots / "tensorboard_scalars.png")


def test_pictures_of_samples_and_confusion_are_seen(
    server: str, killed_run: pathlib.Path, page: Any, screenshots: pathlib.Path
) -> None:
    page.open(f"{server}/?darkMode=false#images&tagFilter=confusion%7Csurest", height=900)

    def drawn() -> bool:
        images = page.all("#main-image-container img")
        sizes = [page.driver.execute_script("return arguments[0].naturalWidth", image) for image in images]
        return len(sizes) >= 2 and all(size > 200 for size in sizes)

    page.wait_for(drawn, "pictures")
    words = "".join(page.text().split())  # TensorBoard breaks long names into parts
    assert "confusion_matrix" in words
    assert "samples/surest_mistakes" in words
    page.screenshot(screenshots / "tensorboard_images.png")


def test_runs_are_a_table_of_hyperparameters(
    server: str, killed_run: pathlib.Path, other_run: pathlib.Path, page: Any, screenshots: pathlib.Path
) -> None:
    page.open(f"{server}/?darkMode=false#hparams", width=1600)
    for word in (
        "learning_rate",
        "batch_size",
        "eval.accuracy",
        "cnn",
        "mlp",
        "0.0010000",
        "0.0030000",
        "killed",
        "other",
    ):
        page.wait_for(lambda word=word: word in page.text(), word)
    page.screenshot(screenshots / "tensorboard_hparams.png")


def test_flags_are_read_as_text(server: str, killed_run: pathlib.Path, page: Any, screenshots: pathlib.Path) -> None:
    page.open(f"{server}/?darkMode=false#text")
    page.wait_for(lambda: "log_every" in page.text() and "checkpoint_every" in page.text(), "flags")
    page.screenshot(screenshots / "tensorboard_text.png")


def test_graph_names_the_layers(server: str, killed_run: pathlib.Path, page: Any, screenshots: pathlib.Path) -> None:
    page.open(f"{server}/?darkMode=false#graphs&run=killed%2Ftensorboard")
    page.wait_for(lambda: page.all("g.node"), "nodes of the graph")
    page.screenshot(screenshots / "tensorboard_graph.png")


def test_histograms_are_seen(server: str, killed_run: pathlib.Path, page: Any, screenshots: pathlib.Path) -> None:
    page.open(f"{server}/?darkMode=false&tagFilter=gradients#timeseries", width=1440)
    page.wait_for(lambda: page.all("histogram-card tb-histogram svg, histogram-card svg"), "histograms")
    page.screenshot(screenshots / "tensorboard_histograms.png")
