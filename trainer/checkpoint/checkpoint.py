"""Checkpoints: the whole state, committed in one piece, and restored exactly.

The files are `tf.train.Checkpoint`'s own. Plain TensorFlow reads them:

    checkpoint = tf.train.Checkpoint(model=model)
    checkpoint.restore("runs/x/checkpoints/00001250/state").expect_partial()
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import pathlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from loopwright.trainer.base import atomic
from loopwright.trainer.base.background import Background
from loopwright.trainer.base.errors import TrainingError, first_line, reason
from loopwright.trainer.base.finalize import finalize_layers
from loopwright.trainer.base.lock import only_process
from loopwright.trainer.base.monitor import Monitor
from loopwright.trainer.base.named_weights import Found, give_weights
from loopwright.trainer.base.paths import local_path
from loopwright.trainer.base.say import say
from loopwright.trainer.checkpoint import object_graph
from loopwright.trainer.checkpoint.retention import Retention
from loopwright.trainer.checkpoint.saver import Saver
from loopwright.trainer.core.state import TrainState

PREFIX = "state"
_LATEST = "latest"


class Checkpoint:
    """A hook that saves the state into `directory/<step>/`, keeps the newest, and restores them.

    A state with a weight or a slot that isn't finite is not saved. So none can become the best or the only checkpoint.

    Only one process can write a folder: `restore`, `save` and training lock it until the hook is closed, and the lock
    refuses another process. Several objects of one process share the lock.

    Args:
      directory: the run's `checkpoints` folder.
      keep, keep_every, monitor: see `Retention`.
      facts: put into every manifest, such as the identity of the run. A checkpoint with different facts isn't restored.
      evaluation: gives the metrics of the newest evaluation, which decide what is best.
      asynchronous: as a hook, copies the state to host memory, and a thread commits the copy. One save is in flight at
        most. Its error is raised by the next call of the hook, by `check`, by `wait`, or when the hook is closed.
      abort_on_nonfinite: saving a state that isn't finite raises TrainingError, because more training can't mend it.

    Attributes:
      before_commit: functions that are called before each save, in the thread that trains. They flush what must not be
        older than the checkpoint.
      hash_tensors: whether the hash of every tensor goes into the manifest. `restore` compares the hashes it finds there.
      say: given a line about each checkpoint that is skipped or not saved. It prints to stderr by default.
      saved_step: the step that was saved or restored last.
    """

    reads_metrics = False
    at_last = True

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int = 3,
        keep_every: int | None = None,
        monitor: str | Monitor = "accuracy",
        facts: Mapping[str, Any] | None = None,
        evaluation: Callable[[], Mapping[str, float]] = dict,
        asynchronous: bool = False,
        abort_on_nonfinite: bool = False,
    ) -> None:
        self.directory = local_path(directory)
        self.retention = Retention(self.directory, keep, keep_every, monitor)
        self.facts, self.evaluation = dict(facts or {}), evaluation
        self.asynchronous, self.abort_on_nonfinite = asynchronous, abort_on_nonfinite
        self.before_commit: list[Callable[[], None]] = []
        self.hash_tensors = False
        self.say: Callable[[str], None] = say
        self.saved_step: int | None = None
        self._background = Background()
        self._saver: Saver | None = None
        self._lock, self._locked = contextlib.ExitStack(), False
        weakref.finalize(self, self._lock.close)

    @contextlib.contextmanager
    def open(self, state: TrainState) -> Iterator[None]:
        """Locks the folder. Waits after the block for the save that is in flight, and releases the lock.

        Raises what that save failed with. If the block itself failed, a line says so instead.
        """
        with self._failure_told(int(state.step)):
            self._hold(create=True)
        with contextlib.closing(self), self._waiting():
            yield

    def close(self) -> None:
        """Releases the lock of the folder. The next call that writes takes it again."""
        self._lock.close()
        self._locked = False

    def _hold(self, *, create: bool = False) -> None:
        """Locks the folder against other processes, unless it can't be written."""
        if create:
            self.directory.mkdir(parents=True, exist_ok=True)
        if not self._locked and os.access(self.directory, os.W_OK):
            self._lock.enter_context(only_process(self.directory))
            self._locked = True

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            try:
                self.wait()
            except TrainingError as error:
                self.say(str(error))
            raise
        self.wait()

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        commits = self._begin(state)
        if commits is not None and self.asynchronous:
            self._background.start(commits)
        elif commits is not None:
            commits()

    def check(self) -> None:
        """Raises what the asynchronous save failed with, if it has failed."""
        self._background.check()

    def wait(self) -> None:
        """Waits for the asynchronous save, and raises what it failed with."""
        self._background.join()

    def save(self, state: TrainState) -> pathlib.Path | None:
        """Commits the state and returns its folder, or None for a state that isn't finite.

        The step that was saved or restored last isn't written again. Raises TrainingError where the checkpoint can't be
        written. Earlier checkpoints are untouched then.
        """
        commits = self._begin(state)
        if commits is not None:
            commits()
        step = int(state.step)
        return self._folder(step) if step == self.saved_step else None

    def folders(self) -> list[pathlib.Path]:
        """The committed checkpoints, oldest first."""
        return self.retention.folders()

    def restore(self, state: TrainState, *, allow_fresh_start: bool = False) -> int | None:
        """Restores the newest good checkpoint into the state and returns its step; None where there is none yet.

        A damaged checkpoint that is newer is named with the reason and renamed to
        `damaged-<step>`.

        Raises TrainingError for a checkpoint that doesn't fit the state or has different facts. Unless `allow_fresh_start`
        is true, it also raises TrainingError where all checkpoints are damaged or gone: no run begins again unasked.
        """
        self._background.join()
        self._hold()
        self.saved_step, skipped = None, []
        for folder in reversed(self.folders()):
            try:
                manifest = atomic.verify_folder(folder)
            except atomic.Damaged as error:
                skipped.append((folder, str(error)))
                continue
            self.check_facts(folder, manifest)
            load(folder, manifest, state)
            self.saved_step = int(state.step)
            break
        if self.saved_step is None and not allow_fresh_start:
            self._refuse_fresh_start(skipped)
        for folder, damage in skipped:
            self.say(f"a damaged checkpoint is skipped: {damage}; it is kept as {atomic.set_aside(folder).name}")
        self._renew_latest()
        return self.saved_step

    def check_facts(self, folder: pathlib.Path, manifest: Mapping[str, Any]) -> None:
        """Raises TrainingError (exit 2), with the differences, for a checkpoint of another run or of different data."""
        differences = _differences(manifest, self.facts)
        if differences:
            raise TrainingError(
                f"{folder} belongs to another run ({', '.join(differences)}); exact resuming needs the same run on the same "
                "data; give it as init_from to take its weights alone",
                exit_code=2,
            )

    def _begin(self, state: TrainState) -> Callable[[], None] | None:
        """Does the part of a save for which training must wait. Returns a function that does the rest, or None for the step
        that was saved last."""
        self._background.join()
        step = int(state.step)
        if step == self.saved_step:
            return None
        with self._failure_told(step):
            for flush in self.before_commit:
                flush()
        if self._saver is None or not self._saver.serves(state):
            self._saver = Saver(state, copied=self.asynchronous)
        self._saver.take()
        return functools.partial(self._commit, self._saver, step, self._facts(state, step))

    def _facts(self, state: TrainState, step: int) -> dict[str, Any]:
        scores = {name: value for name, value in self.evaluation().items() if math.isfinite(value)}
        facts = {"step": step, "tensorflow": tf.__version__, "keras": keras.__version__, **self.facts}
        if scores:
            facts["evaluation"] = scores
        if self.hash_tensors:
            facts["tensors"] = state.hashes()
        return facts

    def _folder(self, step: int) -> pathlib.Path:
        return self.directory / f"{step:08d}"

    def _commit(self, saver: Saver, step: int, facts: Mapping[str, Any]) -> None:
        """Commits what a saver writes, makes it the latest, and deletes what needn't be kept."""
        values = saver.read()
        nonfinite = saver.first_nonfinite(values)
        if nonfinite is not None:
            refusal = f"step {step} is not saved: {nonfinite} has values that aren't finite"
            if self.abort_on_nonfinite:
                raise TrainingError(f"{refusal}; lower learning_rate")
            self.say(refusal)
            return
        folder = self._folder(step)
        with self._failure_told(step):
            self._hold(create=True)
            atomic.commit_folder(folder, lambda temporary: saver.write(temporary / PREFIX, values), facts)
            self.saved_step = step
            atomic.replace_file(self.directory / _LATEST, folder.name + "\n")
            self.retention.apply(folder, facts.get("evaluation", {}))

    @contextlib.contextmanager
    def _failure_told(self, step: int) -> Iterator[None]:
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            raise TrainingError(
                f"step {step} can't be saved in {self.directory}: {reason(error)}; the checkpoints before it are whole, so "
                "mend that, and the same command goes on from the newest"
            ) from error

    def _renew_latest(self) -> None:
        """Lets `latest` name the newest checkpoint, which a writer that died may have missed."""
        path = self.directory / _LATEST
        newest = [folder.name for folder in self.folders()[-1:]]
        if newest and (not path.is_file() or path.read_text(encoding="utf-8", errors="replace").split() != newest):
            atomic.replace_file(path, newest[0] + "\n")
        elif not newest and self.directory.is_dir():
            path.unlink(missing_ok=True)

    def _refuse_fresh_start(self, skipped: list[tuple[pathlib.Path, str]]) -> None:
        remedy = "bring one back, or begin again at step 0 with allow_fresh_start=True"
        if skipped:
            reasons = "; ".join(reason for _, reason in skipped)
            raise TrainingError(f"no checkpoint in {self.directory} is whole: {reasons}; {remedy}")
        latest = self.directory / _LATEST
        if latest.exists() or latest.is_symlink():
            raise TrainingError(f"{latest} names a checkpoint, but there is none in {self.directory}; {remedy}")


def newest_good(directory: str | os.PathLike[str], say: Callable[[str], None] = say) -> pathlib.Path | None:
    """The newest checkpoint in a run's `checkpoints` folder that is whole, for readers; None where there is none.

    `say` is given a line about each damaged one. Nothing is changed. Where the writer deletes a checkpoint in the meantime,
    it has a newer one, so the folder is read again.
    """
    told: set[pathlib.Path] = set()
    while True:
        deleted = False
        for folder in reversed(Retention(local_path(directory)).folders()):
            try:
                atomic.verify_folder(folder)
            except atomic.Damaged as error:
                if not folder.exists():
                    deleted = True
                elif folder not in told:
                    say(f"a damaged checkpoint is skipped: {error}")
                    told.add(folder)
            else:
                return folder
        if not deleted:
            return None


def restore_newest(directory: str | os.PathLike[str], state: TrainState) -> pathlib.Path | None:
    """Restores what `newest_good` gives and returns its folder, which a run that goes on may delete later.

    The checkpoint may hold more than the state. Raises TrainingError for one that doesn't fit the state.
    """
    while (folder := newest_good(directory)) is not None:
        try:
            restore_folder(folder, state, exact=False)
        except TrainingError:
            if folder.exists():
                raise
        else:
            return folder
    return None


def restore_folder(folder: str | os.PathLike[str], state: TrainState, *, exact: bool = True) -> dict[str, Any]:
    """Restores one committed checkpoint into a state that was built like the saved one; returns its manifest.

    Every file is checked against the manifest before TensorFlow sees it. With `exact=False` the checkpoint may hold more
    than the state, which is enough for evaluation.

    Raises TrainingError for a damaged checkpoint, and for one that doesn't fit the state.
    """
    manifest = verified_manifest(folder)
    load(local_path(folder), manifest, state, exact=exact)
    return manifest


def verified_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a folder that the user named, after every file was checked. Raises TrainingError for a damaged one."""
    try:
        return atomic.verify_folder(local_path(folder))
    except atomic.Damaged as error:
        raise TrainingError(f"the checkpoint is damaged: {error}; choose another one") from None


def load(folder: pathlib.Path, manifest: Mapping[str, Any], state: TrainState, *, exact: bool = True) -> None:
    """Gives the state what is in a checkpoint whose manifest was verified; nothing is changed where it doesn't fit.

    Raises TrainingError that lists the variables that are missing, unexpected or of another shape, and, where the
    manifest has the tensors' hashes, the tensors that came back with other values.
    """
    root = tf.train.Checkpoint(**state.trackables())
    try:
        found = object_graph.match(folder / PREFIX, root)
        if found.missing or found.wrong_shape or (exact and found.unexpected):
            raise TrainingError(f"the checkpoint {folder} doesn't fit this model and optimizer: {found.explain()}")
        status = root.read(str(folder / PREFIX))
        if exact:
            status.assert_consumed()
        else:
            status.assert_existing_objects_matched().expect_partial()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        raise TrainingError(f"{folder} doesn't fit this model and optimizer: {first_line(error)}") from error
    finalize_layers(state.model, *state.extras.values())
    if exact and "tensors" in manifest:
        hashes = state.hashes()
        changed = [name for name, digest in manifest["tensors"].items() if hashes.get(name) != digest]
        if changed:
            raise TrainingError(f"{folder} was restored, but not to the bit: {', '.join(changed)}")


def load_weights(
    folder: str | os.PathLike[str],
    model: keras.Model,
    *,
    exclude: str | None = None,
    say: Callable[[str], None] | None = None,
) -> list[str]:
    """Gives a model the weights of a checkpoint, and nothing else of it; returns the paths of the variables that got one.

    `exclude` and `say` are those of `give_weights`. Raises TrainingError for a damaged checkpoint, and, with the list, for
    variables that have no value of their shape there.
    """
    verified_manifest(folder)
    prefix = local_path(folder) / PREFIX
    reader = tf.train.load_checkpoint(str(prefix))
    own = {id(variable.value): variable for variable in model.weights}
    found = [
        Found(pair.name, pair.shape, functools.partial(reader.get_tensor, pair.key), own[id(pair.variable)])
        for pair in object_graph.match(prefix, tf.train.Checkpoint(model=model)).pairs
        if id(pair.variable) in own
    ]
    return give_weights(folder, found, model, exclude=exclude, say=say)


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """How what a manifest says differs from `here`, whose names alone count: "identity.seed: 1 there, 2 here"."""
    found = []
    for name, value in here.items():
        if isinstance(value, Mapping) and isinstance(there.get(name), Mapping):
            both = {**dict.fromkeys(there[name]), **value}
            found += _differences(there[name], both, f"{prefix}{name}.")
        elif there.get(name) != value:
            found.append(f"{prefix}{name}: {there.get(name)} there, {value} here")
    return found
