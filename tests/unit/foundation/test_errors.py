"""Errors: what a message says, to whom, and after it has been to another process."""

from __future__ import annotations

import pickle

import pytest

from peftbench.foundation.errors import MissingInput, settled_by_a_record

ABSENT = MissingInput("dtd: not here", "Set dataset.root.", instead="dataset=digits needs no files.")
UNSET = MissingInput("set dataset.root.", instead="dataset=digits needs no files.", same_line=True)


@pytest.mark.parametrize(
    ("error", "shown", "of_record"),
    [
        (
            ABSENT,
            "dtd: not here\nSet dataset.root.\ndataset=digits needs no files.",
            "dtd: not here\nSet dataset.root.",
        ),
        (UNSET, "set dataset.root. dataset=digits needs no files.", "set dataset.root."),
        (MissingInput("no weights"), "no weights", "no weights"),
    ],
)
def test_the_choice_to_take_instead_is_said_last_and_not_of_a_record(
    error: MissingInput, shown: str, of_record: str
) -> None:
    assert (str(error), str(error.of_record())) == (shown, of_record)
    with pytest.raises(MissingInput) as caught, settled_by_a_record():
        raise error
    assert str(caught.value) == of_record


def test_a_record_keeps_words_that_only_look_like_another_choice() -> None:
    what = "the folder 'dataset=mine needs no files.' is not there"
    assert str(MissingInput(what, instead="dataset=digits needs no files.").of_record()) == what


@pytest.mark.parametrize("error", [ABSENT, UNSET])
def test_a_message_from_a_worker_process_is_whole(error: MissingInput) -> None:
    there = pickle.loads(pickle.dumps(error))
    assert (str(there), str(there.of_record())) == (str(error), str(error.of_record()))
