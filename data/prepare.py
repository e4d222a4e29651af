"""Preparing a TFDS dataset on the disk, from source files or from the network."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import pathlib
import socket
import urllib.parse
import urllib.request
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

from loopwright.data.errors import DataError, first_line

_SECONDS_TO_REACH = 5.0


class NotPrepared(DataError):
    """The dataset isn't prepared, and can't be prepared."""


def ensure_prepared(
    builder: tfds.core.DatasetBuilder, *, manual_dir: str | None, download: bool, file_format: str | None = None
) -> None:
    """Prepares the dataset, unless it is already prepared in some format. New files are written in `file_format`.

    A failure leaves no half-prepared dataset, because TFDS renames the folder at the end.

    Raises NotPrepared if the source files are neither in `manual_dir` nor reachable (the message names three ways out),
    and if the builder needs a package that is missing.
    """
    if builder.is_prepared():
        return
    if manual_dir is not None and not pathlib.Path(manual_dir).is_dir():
        raise NotPrepared(f"manual_dir={manual_dir!r}: no such folder")
    urls = _missing_urls(builder, manual_dir)
    if urls and not download:
        raise NotPrepared(_ways_out(builder, "it isn't prepared, and download=False forbids fetching it"))
    if urls and not _reachable(urls[0]):
        raise NotPrepared(_ways_out(builder, f"{urllib.parse.urlsplit(urls[0]).hostname} can't be reached"))
    config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
    tfds.disable_progress_bar()
    said = contextlib.nullcontext() if urls else contextlib.redirect_stdout(io.StringIO())  # "Downloading" isn't true
    try:
        with said:
            builder.download_and_prepare(download_config=config, file_format=file_format)
    except ImportError as error:
        raise NotPrepared(f"{builder.info.full_name} can't be prepared: {first_line(error)}") from error
    except (OSError, AssertionError, tfds.download.DownloadError, NonMatchingChecksumError) as error:
        if not builder.data_path.exists():
            raise NotPrepared(_ways_out(builder, first_line(error))) from error
        builder.info.read_from_directory(builder.data_path)  # Another process was faster.


def _missing_urls(builder: Any, manual_dir: str | None) -> list[str]:
    """The URLs of registered source files that aren't in `manual_dir`. As in TFDS, the file name decides."""
    urls = getattr(builder, "url_infos", None) or {}
    present = {path.name for path in pathlib.Path(manual_dir).iterdir()} if manual_dir else set()
    return [url for url in urls if pathlib.PurePosixPath(urllib.parse.urlsplit(url).path).name not in present]


def _reachable(url: str) -> bool:
    """Whether the host of a URL (or the proxy in front of it) answers within 5 seconds, name look-up included."""
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy:
        parts = urllib.parse.urlsplit(proxy)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=1)
    try:
        attempt = pool.submit(socket.create_connection, (parts.hostname, port), _SECONDS_TO_REACH)
        attempt.result(timeout=_SECONDS_TO_REACH).close()
    except (OSError, concurrent.futures.TimeoutError):
        return False
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return True


def _ways_out(builder: tfds.core.DatasetBuilder, reason: str) -> str:
    return (
        f"{builder.info.full_name} is not on this machine: {reason}. Three ways out: go online and run this again; put "
        "the source files into a folder and name it with manual_dir; or name a folder where it is prepared with "
        f"data_dir (looked in {builder.data_dir})"
    )
