"""The width of what is written, and lines that keep to it."""

from __future__ import annotations

import io

import pytest

from peftbench.foundation.progress import Progress
from peftbench.foundation.terminal import fitted, print_fitted, width_of


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("columns", "stream", "expected"),
    [
        ("", io.StringIO(), None),
        ("100", io.StringIO(), 100),
        ("wide", io.StringIO(), None),
        ("0", io.StringIO(), None),
        ("3", io.StringIO(), 20),
        ("", Terminal(), 80),  # it has no descriptor that could be asked
        ("100", Terminal(), 100),
    ],
)
def test_the_width_is_that_of_the_terminal_or_of_columns(monkeypatch, columns, stream, expected):
    monkeypatch.setenv("COLUMNS", columns)
    assert width_of(stream) == expected


def test_lines_break_between_words_and_never_inside_one():
    text = "lora on digits: test accuracy 96.61% of 797 images, 24,832 + 1,290 trainable\nrecord /a/long/path/of-a-file"
    assert fitted(text, None) == text
    lines = fitted(text, 20).splitlines()
    assert " ".join(line.strip() for line in lines).split() == text.split()
    assert all(len(line) <= 20 or " " not in line.strip() for line in lines)
    assert "  /a/long/path/of-a-file" in lines


def test_sentences_break_on_a_terminal_only(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    shown = {}
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr("sys.stdout", stream)
        print_fitted("  rung 1, 1/4: convpass, rate 0.005, 2 epochs: 80.9%\n\nmodel  x")
        shown[type(stream)] = stream.getvalue()
    assert shown[io.StringIO] == "  rung 1, 1/4: convpass, rate 0.005, 2 epochs: 80.9%\n\nmodel  x\n"
    assert shown[Terminal] == "  rung 1, 1/4: convpass, rate\n  0.005, 2 epochs: 80.9%\n\nmodel  x\n"


@pytest.mark.parametrize(("width", "bar"), [(60, 8), (80, 8), (160, 24)])
def test_a_bar_keeps_its_numbers_and_its_title_gives_way(monkeypatch, width, bar):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    progress = Progress(headline=lambda share: "17 of 240 cells done, ETA 3 h 20 min")

    class Batches:
        on_batch = None

        def __len__(self) -> int:
            return 4

    with progress.epochs("adaptformer on vtab/caltech101 (vit_base, seed 2)", 100, Batches()) as on_epoch:
        on_epoch({"loss": 1.23456, "val_accuracy": 0.9725})
    shown = [line for line in stream.getvalue().replace("\r", "\n").splitlines() if "loss" in line][-1]
    assert ("17 of 240" in shown) == (width > 60)
    for part in ("epoch 1/100", "ETA", "loss 1.2346, val 97.2", "━" * bar):
        assert part in shown


def test_the_title_of_a_count_gives_way_to_no_more_than_stands_there(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    with Progress().counted("looking at the images of a folder", 268) as step:
        step(24)
    assert "looking at the images of a folder" in stream.getvalue() and "24/268" in stream.getvalue()
