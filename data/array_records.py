"""ArrayRecord copies of TFRecord files, which can be read at random."""

from __future__ import annotations

import importlib.util
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from loopwright.data.errors import DataError, first_line
from loopwright.data.record_files import ARRAY_RECORD, RecordFile, RecordFiles, array_record_module

_WRITER_OPTIONS = "group_size:1"  # One record in a group, as TFDS writes them: this is the fastest to read at random.
_AT_ONCE = 512


def installed() -> bool:
    """Whether ArrayRecord files can be read and written here."""
    return importlib.util.find_spec("array_record") is not None


def copy_to_array_record(
    files: RecordFiles, *, skip_damaged: bool = False, progress: Callable[[int, int], None] | None = None
) -> RecordFiles:
    """The same records in ArrayRecord files beside the TFRecord files. Files that don't exist yet are written.

    Whole files are copied, even if the split takes only a part of one, because other splits need the rest. A file
    appears only when it is complete. Records keep their places; with `skip_damaged`, a damaged record becomes an empty
    one.

    Raises DataError if the folder can't be written, for a damaged record, and if the ArrayRecord writer isn't
    installed.
    """
    copies = files.as_format(ARRAY_RECORD)
    module = array_record_module()
    waiting = [pair for pair in zip(files.files, copies.files, strict=True) if not pathlib.Path(pair[1].path).is_file()]
    done, total = 0, sum(source.size for source, _ in waiting)
    for source, target in waiting:
        folder = pathlib.Path(target.path).parent
        try:
            with tempfile.TemporaryDirectory(prefix="array_record.", dir=folder) as scratch:
                unfinished = pathlib.Path(scratch) / "unfinished"
                writer = module.ArrayRecordWriter(str(unfinished), _WRITER_OPTIONS)
                for records in _all_records(files, source, skip_damaged):
                    for record in records:
                        writer.write(record)
                    done += len(records)
                    if progress:
                        progress(done, total)
                writer.close()
                unfinished.replace(target.path)
        except (OSError, RuntimeError) as error:  # The writer raises RuntimeError.
            raise DataError(
                f"can't write ArrayRecord copies to {folder} ({first_line(error)}), and reading at random needs them; "
                "choose another data_dir, or feed='sequential'"
            ) from None
    return copies


def _all_records(files: RecordFiles, source: RecordFile, skip_damaged: bool) -> Iterator[Sequence[bytes]]:
    """All records of a file, in order, as lists of records."""
    done = 0
    try:
        for batch in files.of_file(source.path, 0, source.size).batch(_AT_ONCE).prefetch(2):
            yield batch.numpy()
            done += len(batch)
    except tf.errors.DataLossError:
        if not skip_damaged:  # The reader by place names the damaged record.
            files.readers.read(source.path, range(done, min(done + _AT_ONCE, source.size)), verify=True)
            raise
    for place in range(done, source.size):
        try:
            yield files.readers.read(source.path, [place], verify=True)
        except DataError:
            if not skip_damaged:
                raise
            yield [b""]
