"""Mistakes that a command line can hold, for the tests of the checks and of the whole program."""

import pathlib

Mistake = tuple[str, list[str], list[str]]

#: A command, its words, and what the one line about them says.
MISTAKES: list[Mistake] = [
    ("train", ["--dataset="], ["--dataset=", "loopwright datasets"]),
    ("train", ["--train_split=train[:90%"], ["--train_split=train[:90%:", "train[:90%]"]),
    ("train", ["--eval_split=test[a:b]"], ["--eval_split=test[a:b]", "TFDS"]),
    ("train", ["--eval_split="], ["--eval_split=", "TFDS"]),
    ("train", ["--image_size=64"], ["--image_size=64", "HEIGHT,WIDTH", "--image_size=64,64"]),
    ("train", ["--image_size=0,64"], ["--image_size=0,64", "HEIGHT,WIDTH"]),
    ("train", ["--image_size=64x64"], ["--image_size=64x64", "HEIGHT,WIDTH"]),
    ("train", ["--augment=flop"], ["--augment=flop", "did you mean 'flip'?", "module:function"]),
    ("train", ["--augment=flip,translate:x"], ["--augment=translate:x", "translate:PIXELS"]),
    ("train", ["--augment=crop"], ["--augment=crop", "crop:PIXELS"]),
    ("train", ["--augment=cutout:0"], ["--augment=cutout:0", "cutout:4"]),
    ("train", ["--augment=flip:2"], ["--augment=flip:2", "flip alone"]),
    ("train", ["--augment=my augment:f"], ["--augment=my augment:f", "module:function"]),
    ("train", ["--model=my-models:net"], ["--model=my-models:net", "module:function"]),
    ("train", ["--model=my_models:"], ["--model=my_models:", "module:function"]),
    ("train", ["--freeze=["], ["--freeze=[", "not a valid regular expression", "backslash"]),
    ("train", ["--init_exclude=x"], ["--init_exclude=x", "--init_from"]),
    ("train", ["--init_from=a", "--init_exclude=("], ["--init_exclude=(", "not a valid regular expression"]),
    ("train", ["--metrics=acuracy"], ["--metrics=acuracy", "did you mean 'accuracy'?"]),
    ("train", ["--metrics=,"], ["--metrics=,", "at least one metric, such as accuracy"]),
    ("train", ["--monitor=los"], ["--monitor=los", "did you mean 'loss'?"]),
    ("train", ["--monitor=accuracy:least"], ["--monitor=accuracy:least", "NAME:min or NAME:max"]),
    ("train", ["--monitor=:min"], ["--monitor=:min", "NAME:min or NAME:max"]),
    ("train", ["--loss=hubber"], ["--loss=hubber", "did you mean 'huber'?"]),
    ("train", ["--loss=huber:2"], ["--loss=huber:2", "NAME:key=value"]),
    ("train", ["--task=regresion"], ["--task=regresion", "did you mean 'regression'?"]),
    ("train", ["--loss_weights=age"], ["--loss_weights=age", "NAME:NUMBER"]),
    ("train", ["--loss_weights=age:-1"], ["--loss_weights=age:-1", "NAME:NUMBER"]),
    (
        "train",
        ["--unfreeze_at=5", "--freeze=a", "--gradient_accumulation=2"],
        ["--unfreeze_at=5", "--gradient_accumulation=2", "one of them"],
    ),
    ("train", ["--unfreeze_at=5"], ["--unfreeze_at=5", "--freeze"]),
    (
        "train",
        ["--unfreeze_at=5", "--freeze=a", "--ema_decay=0.9"],
        ["--unfreeze_at=5", "--ema_decay=0.9", "one of them"],
    ),
    ("train", ["--clip_norm=1", "--clip_value=0.5"], ["--clip_norm=1.0", "--clip_value=0.5", "one of them"]),
    ("train", ["--boundaries=2"], ["--boundaries=2", "--schedule=piecewise", "--schedule=auto"]),
    ("train", ["--schedule=piecewise"], ["--schedule=piecewise", "--boundaries=1000,2000"]),
    ("train", ["--schedule=piecewise", "--boundaries=4,2"], ["--boundaries=4,2", "ascending"]),
    ("train", ["--schedule=piecewise", "--boundaries=2,2"], ["--boundaries=2,2", "ascending"]),
    ("train", ["--schedule=piecewise", "--boundaries=a"], ["--boundaries=a", "ascending"]),
    ("train", ["--boundaries="], ["--boundaries=:", "ascending"]),
    ("train", ["--schedule=cosine", "--warmup_steps=4", "--train_steps=4"], ["--warmup_steps=4", "--train_steps"]),
    (
        "train",
        ["--schedule=cosine", "--warmup_steps=2", "--train_steps=7", "--gradient_accumulation=3"],
        ["--warmup_steps=2", "makes 2 updates"],
    ),
    ("train", ["--reduce_on_plateau=1", "--schedule=cosine"], ["--reduce_on_plateau=1", "--schedule=constant"]),
    ("train", ["--reduce_on_plateau=1", "--warmup_steps=5"], ["--reduce_on_plateau=1", "--warmup_steps=5"]),
    ("train", ["--reduce_on_plateau=1", "--decay_factor=2"], ["--decay_factor=2", "less than 1"]),
    ("train", ["--profile_steps=100"], ["--profile_steps=100", "FIRST:LAST"]),
    ("train", ["--profile_steps=9:3"], ["--profile_steps=9:3", "FIRST:LAST"]),
    ("train", ["--profile_steps=x"], ["--profile_steps=x", "FIRST:LAST"]),
    ("train", ["--profile_steps=20:30", "--train_steps=20"], ["--profile_steps=20:30", "the run ends at step 20"]),
    ("train", ["--log_samples", "--execution=xla"], ["--log_samples", "--execution=graph", "--execution=xla"]),
    ("train", ["--log_samples", "--execution=auto"], ["--log_samples", "--execution=graph", "--execution=auto"]),
    ("train", ["--restore_from=a", "--init_from=b"], ["--restore_from=a", "--init_from=b", "one of them"]),
    ("verify_resume", ["--kill_at=5,x"], ["--kill_at=5,x", "ascending"]),
    ("verify_resume", ["--kill_at=5,3"], ["--kill_at=5,3", "ascending"]),
    ("verify_resume", ["--kill_at=0"], ["--kill_at=0", "ascending"]),
    ("verify_resume", ["--kill_at=500", "--train_steps=200"], ["--kill_at=500", "the run ends at step 200"]),
    ("verify_resume", ["--train_steps=1"], ["--train_steps=1", "at least 2 steps"]),
    ("verify_resume", ["--execution=xla"], ["--execution=xla", "--execution=graph"]),
    ("benchmark", ["--gradient_accumulation=2"], ["--gradient_accumulation=2", "leave it out"]),
    ("benchmark", ["--init_from=a"], ["--init_from=a", "leave it out"]),
    ("benchmark", ["--metrics=auc"], ["--metrics=auc", "leave it out"]),
    (
        "benchmark",
        ["--schedule=cosine", "--warmup_steps=30", "--train_steps=10", "--repeats=2"],
        ["--warmup_steps=30", "makes 30 updates"],
    ),
    ("parity", ["--gradient_accumulation=2"], ["--gradient_accumulation=2", "leave it out"]),
    ("parity", ["--init_from=a"], ["--init_from=a", "leave it out"]),
    ("parity", ["--metrics=accuracy,auc"], ["--metrics=accuracy,auc", "leave it out"]),
    ("parity", ["--schedule=cosine", "--warmup_steps=10", "--train_steps=10"], ["--warmup_steps=10"]),
    ("predict", ["--split=test[:20"], ["--split=test[:20", "TFDS"]),
    ("export", ["--formats=h5,onnx"], ["--formats=h5,onnx", "'onnx'", "(h5, keras, saved_model, litert)"]),
    ("export", ["--formats=lite"], ["--formats=lite", "did you mean 'litert'?"]),
    ("export", ["--formats="], ["--formats=", "at least one of h5"]),
    ("models", ["--input_shape=28x28"], ["--input_shape=28x28", "28,28,1"]),
    ("models", ["--input_shape=0,28,1"], ["--input_shape=0,28,1", "28,28,1"]),
]

#: The same for what files, folders and modules `surround` doesn't make.
IMPOSSIBLE: list[Mistake] = [
    ("train", ["--dataset=folder:nowhere"], ["--dataset=folder:nowhere", "no such folder"]),
    ("train", ["--dataset=folder:a_file"], ["--dataset=folder:a_file", "no such folder"]),
    ("train", ["--dataset=no_such_module:f"], ["--dataset=no_such_module:f", "can't be imported", "'no_such_module'"]),
    ("train", ["--augment=flip,no_such.module:f"], ["--augment=no_such.module:f", "can't be imported", "'no_such'"]),
    ("train", ["--model=no_such_module:net"], ["--model=no_such_module:net", "can't be imported"]),
    ("train", ["--data_dir=a_file"], ["--data_dir=a_file", "is a file"]),
    ("train", ["--manual_dir=a_file/below"], ["--manual_dir=a_file/below", "a_file is a file"]),
    ("train", ["--workdir=a_file"], ["--workdir=a_file", "is a file"]),
    ("train", ["--workdir=a_file/below/it"], ["--workdir=a_file/below/it", "a_file is a file"]),
    ("train", ["--restore_from=nowhere"], ["--restore_from=nowhere", "no such file or folder"]),
    ("train", ["--restore_from=runs/other"], ["--restore_from=runs/other", "not a checkpoint folder", "model.h5"]),
    ("train", ["--restore_from=a_file"], ["--restore_from=a_file", "not a checkpoint folder"]),
    ("train", ["--init_from=nowhere"], ["--init_from=nowhere", "no such file or folder"]),
    ("train", ["--init_from=a_file"], ["--init_from=a_file", "not a checkpoint folder", "model.h5"]),
    ("train", ["--init_from=nowhere", "--workdir=runs/new"], ["--init_from=nowhere"]),
    ("train", ["--restore_from=" + "x" * 300], ["--restore_from=xxx", "no such file or folder"]),
    ("parity", ["--output=a_file"], ["--output=a_file", "is a file"]),
    ("benchmark", ["--output=a_file/below"], ["--output=a_file/below", "a_file is a file"]),
    ("doctor", ["--data_dir=a_file"], ["--data_dir=a_file", "is a file"]),
    ("datasets", ["mnist_5k", "--sheet=runs"], ["--sheet=runs", "is a folder"]),
]

#: A folder of a checkpoint that `surround` makes.
CHECKPOINT = "runs/other/checkpoints/00000010"


def surround(folder: pathlib.Path) -> None:
    """Makes a file, a module of the user, a run with a checkpoint, and an export; none of them holds anything real."""
    (folder / "a_file").write_text("mine")
    (folder / "modules_of_mine.py").write_text("raise RuntimeError('imported')")
    (folder / CHECKPOINT).mkdir(parents=True)
    (folder / CHECKPOINT / "manifest.json").write_text("{}")
    (folder / "runs/other/flags.txt").write_text("--model=mlp\n")
    (folder / "model.h5").write_text("")
