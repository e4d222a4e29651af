"""What a terminal shows of work in pieces."""

import io

from rich.console import Console

from loopwright.trainer.commands.data_progress import pieces


def test_pieces_tell_what_is_done_on_a_terminal_alone() -> None:
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=80, color_system=None)
        with pieces(4, console) as show:
            show("cnn, batch 32: warm-up of fit", 1)
        text = console.file.getvalue()
        assert (("cnn, batch 32: warm-up of fit" in text) and ("25%" in text)) == terminal
        assert terminal or not text
