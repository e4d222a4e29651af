"""What a terminal shows of work that is done piece by piece."""

import io
import subprocess
import sys

from rich.console import Console

from loopwright.trainer.commands.data_progress import pieces


def test_pieces_say_what_is_done_only_on_a_terminal() -> None:
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=80, color_system=None)
        with pieces(4, console) as show:
            show("cnn, batch 32: warm-up of fit", 1)
        text = console.file.getvalue()
        assert (("cnn, batch 32: warm-up of fit" in text) and ("25%" in text)) == terminal
        assert terminal or not text


def test_cursor_comes_back_when_a_command_fails_under_a_bar() -> None:
    script = (
        "import sys; from rich.console import Console; from loopwright.trainer.commands.data_progress import DataProgress\n"
        "DataProgress(Console(file=sys.stdout, force_terminal=True))('decoding train', 1, 4)\n"
        "sys.exit('it failed')"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stdout
    assert said.count("\x1b[?25l") == 1  # hidden
    assert said.rindex("\x1b[?25h") > said.index("decoding train")  # shown again
