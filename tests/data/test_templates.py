"""What becomes of every word in every chat template of TRL; template_sweep.py holds conversations and oracle."""

from __future__ import annotations

import pytest
from tests.data import more_templates
from tests.data.families import FAMILIES
from tests.data.template_sweep import CONVERSATIONS, judge, table
from tests.paths import ROOT

from sftloss.data.rendering.families import read_template, training_template, trl_templates
from sftloss.docstrings import replace_region
from sftloss.errors import ConfigError

FAST = (
    "mistral_v3",
    "llama2",
    "deepseek_r1",
    "gptoss",
    "qwen3",
    "qwen3_5_think",
    "deepseek_r1_distill",
    "gemma4",
    "glm4moe",
    "llama3_1",
    "smolvlm",
    "phi3_5",
)
NAMES = [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in (*trl_templates(), *FAMILIES)]


@pytest.mark.parametrize("template", NAMES)
def test_nothing_is_lost_or_trained_in_silence(template):
    """Every word is rendered and trained where it should be, or noted, or refused with a cure that works."""
    wrong = {name: outcome.why for name in CONVERSATIONS if (outcome := judge(template, name)).state == "wrong"}
    assert not wrong


MORE = [
    pytest.param(n, marks=() if n in ("date", "results in user") else pytest.mark.slow) for n in more_templates.FAMILIES
]


@pytest.mark.parametrize("template", MORE)
def test_other_ways_to_write_a_template_lose_nothing_in_silence(template):
    rows = {**CONVERSATIONS, **more_templates.CONVERSATIONS}
    wrong = {name: outcome.why for name, row in rows.items() if (outcome := judge(template, row)).state == "wrong"}
    assert not {name: why for name, why in wrong.items() if name not in more_templates.KNOWN.get(template, ())}


@pytest.mark.slow
@pytest.mark.parametrize("template", (*trl_templates(), *FAMILIES))
def test_other_conversations_lose_nothing_in_silence(template):
    rows = more_templates.CONVERSATIONS
    outcomes = {name: judge(template, row) for name, row in rows.items()}
    assert not {name: outcome.why for name, outcome in outcomes.items() if outcome.state == "wrong"}


@pytest.mark.slow
def test_the_page_holds_the_matrix():
    page = (ROOT / "docs" / "templates.md").read_text("utf-8")
    for region, templates in (("matrix", trl_templates()), ("families", FAMILIES)):
        assert replace_region(page, region, table(templates)) == page, "run: python -m tests.data.template_sweep"


@pytest.mark.slow
def test_nearly_every_conversation_is_trained():
    """95 % at least, of TRL's templates and of the others."""
    for templates in (trl_templates(), FAMILIES):
        states = [judge(template, conversation).state for template in templates for conversation in CONVERSATIONS]
        assert sum(state in ("trained", "noted") for state in states) >= 0.95 * len(states)


def test_a_template_has_the_training_template_of_its_family():
    pytest.importorskip("trl")
    known = trl_templates()
    assert training_template(known["qwen3"]) == "qwen3_training"
    assert training_template(known["lfm2_v2"]) == "lfm2_v2_training"
    assert training_template(known["gemma4_v2"]) is None is training_template("{{ messages }}")
    assert read_template("qwen3_training") == known["qwen3_training"]


def test_a_template_that_is_not_there_is_named(tmp_path):
    pytest.importorskip("trl")
    with pytest.raises(ConfigError, match="did you mean"):
        read_template("qwen3_trainin")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_template(str(tmp_path / "none.jinja"))
    (tmp_path / "own.jinja").write_text("{{ messages }}")
    assert read_template(str(tmp_path / "own.jinja")) == "{{ messages }}"
