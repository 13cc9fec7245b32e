"""What an inspection says about each fault: why it matters and what to do. The one place that words them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Words:
    """`sentence` is said after "3 of 10 rows (30 %) "."""

    sentence: str
    why: str
    fix: str


WHY_CUT = "A cut answer teaches to go on where the answer went on, and its end is never seen."

FAULTS: Mapping[str, Words] = MappingProxyType(
    {
        "MASK001": Words(
            "have no trained token and are left out.",
            "They cost compute and teach nothing; where a loss averages over examples they also dilute the others.",
            "drop these rows, or correct their labels or weights",
        ),
        "MASK003": Words(
            "train no end-of-turn or end-of-sequence token.",
            "A model that is never taught to stop runs on until it hits the length limit.",
            "end each answer with the eos or end-of-turn token, labelled; in a template put it inside the generation "
            "tags: {% generation %}{{ message.content }}<|im_end|>{% endgeneration %}",
        ),
        "MASK004": Words(
            "do not train the first token of an answer.",
            "The first token decides how the answer begins; untrained it stays what the base model would say.",
            "start the labels right after the opener; usual cause: labels shifted twice, or an opener counted with "
            "one token too many",
        ),
        "MASK005": Words(
            "train the role opener, the template's own words in front of the answer.",
            "Scaffold tokens carry no information: they lower the reported loss and teach what the template provides.",
            "label the opener -100; in a template start {% generation %} after it",
        ),
        "MASK006": Words(
            "are refused: the tokens of the prompt are not the beginning of the whole conversation's.",
            "Where the answer starts cannot be told, so the mask would be wrong without a sign of it.",
            "use a template with {% generation %} tags, or split the conversation so that each answer is the last",
        ),
        "MASK008": Words(
            "have an end token that is not trained because it is also the padding token.",
            "A collator that sets the labels of padding to -100 erases the real end too: the model never stops.",
            "tokenizer.pad_token = another token than eos, and make the labels again; or mask by attention_mask, not "
            "by token",
        ),
        "MASK009": Words(
            "begin with two beginning-of-sequence tokens; one is removed here.",
            "Template and tokenizer both add one. A trainer that keeps both trains on a start never seen again.",
            "tokenizer(text, add_special_tokens=False) on what apply_chat_template gave",
        ),
        "MASK010": Words(
            "train tokens of the user or the system.",
            "Sometimes wanted (short answers, small data), often an accident of the template's mask.",
            "label everything outside answers -100, or use a template whose tags enclose answers only",
        ),
        "DATA106": Words(
            "have an answer of nothing but special tokens.",
            "They teach to say nothing.",
            "drop these rows",
        ),
        "DATA107": Words(
            "name tools that the chat template does not show.",
            "The model is trained to call tools it was never told about.",
            "use a template that renders tools",
        ),
        "DATA105": Words(
            "hold a special token of the tokenizer in their text.",
            "It becomes a real control token: text can end a turn, or speak as somebody else.",
            "remove it from the text, or write it so that the tokenizer does not know it",
        ),
    }
)
