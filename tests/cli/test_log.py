"""What is logged while a verb runs."""

from __future__ import annotations

import logging

import pytest

from sftloss.cli.log import log_to_stderr
from sftloss.cli.show import ProgressLines

OURS, OTHER = logging.getLogger("sftloss.training"), logging.getLogger("sftlossy.other")


@pytest.mark.parametrize("verbose", [False, True])
def test_our_warnings_are_heard_and_those_of_others_where_asked_for(
    verbose: bool, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with log_to_stderr(quiet=False, verbose=verbose):
        OTHER.warning("chatter")
        OTHER.error("it broke")
        OURS.warning("sftloss: row %s", "3\x1b[2J")
    OTHER.warning("afterwards")
    chatter = ["chatter"] if verbose else []
    assert caplog.messages == [*chatter, "it broke", "afterwards"]
    assert capsys.readouterr().err == "sftloss: row 3\\x1b[2J\n"


def test_quiet_hears_errors_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with log_to_stderr(quiet=True, verbose=False):
        OURS.warning("a warning")
        OURS.error("an error")
    assert capsys.readouterr().err == "sftloss: an error\n"


def test_everything_is_put_back(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyError), log_to_stderr(quiet=False, verbose=False):
        raise KeyError
    OURS.warning("heard by whoever listens")
    assert caplog.messages == ["heard by whoever listens"] and not logging.getLogger("sftloss").handlers


def test_a_record_made_from_a_dictionary_keeps_what_it_says() -> None:
    with log_to_stderr(quiet=False, verbose=False):
        record = logging.makeLogRecord({"name": "other", "levelno": logging.INFO, "msg": "told"})
    assert (record.name, record.levelno, record.getMessage()) == ("other", logging.INFO, "told")


def test_a_record_that_cannot_be_said_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with log_to_stderr(quiet=False, verbose=False):
        OURS.warning("row %d", "three")
        OURS.warning("row %d", 4)
    told = capsys.readouterr().err
    assert "Logging error" in told and told.endswith("sftloss: row 4\n")


def test_progress_without_a_terminal_is_a_line_every_ten_seconds_with_speed_and_time_left() -> None:
    lines: list[str] = []
    seconds = iter([50.0, 55.0, 60.0, 65.0, 71.0])
    progress = ProgressLines("measuring", "tokens", lines.append, clock=lambda: next(seconds))
    for done, total in ((1000, 9000), (2000, 9000), (3000, 9000), (4000, 9000), (5000, None)):
        progress(done, total)
    assert lines == [
        "measuring: 3,000 of about 9,000 tokens, 200 tokens/s, about 30 s left",
        "measuring: 5,000 tokens, 190 tokens/s",
    ]
