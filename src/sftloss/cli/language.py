"""The language of reports: an option, or the environment variable ``SFTLOSS_LANG``."""

from __future__ import annotations

import os

from sftloss.config import Flag
from sftloss.document import LANGUAGES
from sftloss.errors import ConfigError

LANG_FLAG = Flag(
    "Language of the report: en (English) or zh (Chinese). Default: the environment variable SFTLOSS_LANG, else en.",
    panel="Output", choices=LANGUAGES,
)  # fmt: skip


def language_of(lang: str | None) -> str:
    """The language that was asked for: the option's, else that of ``SFTLOSS_LANG``, else English.

    Raises:
        ConfigError: If the environment names one that is not there.
    """
    chosen = lang or os.environ.get("SFTLOSS_LANG") or "en"
    if chosen not in LANGUAGES:
        raise ConfigError(f"SFTLOSS_LANG is {chosen!r}", cure=f"set it to {' or '.join(LANGUAGES)}")
    return chosen
