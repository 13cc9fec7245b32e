"""More conversations for the sweep of templates, and templates cut down to one way of writing each."""

from __future__ import annotations

from typing import Any

from tests.data import template_sweep
from tests.data.template_sweep import SYSTEM, TOOL, answer, call, result, user


def row(*messages: Any, **columns: Any) -> dict[str, Any]:
    return {"messages": list(messages), **columns}


def system(text: str, role: str = "system") -> dict[str, Any]:
    return {"role": role, "content": text}


def called_with(arguments: Any) -> dict[str, Any]:
    return {"id": "abcdefghi", "type": "function", "function": {"name": "toolname", "arguments": arguments}}


def one_call(made: Any, shown: str = "Wresult", content: str | None = "") -> dict[str, Any]:
    """A question, one call, its result and an answer."""
    return row(user("Wask"), answer(content, tool_calls=[made]), result(shown), answer("Wtell"), tools=[TOOL])


CONVERSATIONS: dict[str, dict[str, Any]] = {}
CONVERSATIONS["three calls"] = row(
    user("Wask"),
    answer("", tool_calls=[call("Wone", id="abcdefgh1"), call("Wtwo", id="abcdefgh2"), call("Wthree", id="abcdefgh3")]),
    result("Wres1", "abcdefgh1"),
    result("Wres2", "abcdefgh2"),
    result("Wres3", "abcdefgh3"),
    answer("Wtell"),
    tools=[TOOL],
)
CONVERSATIONS["results out of order"] = row(
    user("Wask"),
    answer("", tool_calls=[call("Wone", id="abcdefgh1"), call("Wtwo", id="abcdefgh2")]),
    result("Wres2", "abcdefgh2"),
    result("Wres1", "abcdefgh1"),
    answer("Wtell"),
    tools=[TOOL],
)
CONVERSATIONS["two text blocks"] = row(
    user([{"type": "text", "text": "Wask "}, {"type": "text", "text": "Wagain"}]),
    answer([{"type": "text", "text": "Wtell "}, {"type": "text", "text": "Wmore"}]),
)
CONVERSATIONS["developer"] = row(system("Wsystem", "developer"), user("Wask"), answer("Wtell"))
CONVERSATIONS["system and developer"] = row(
    system("Wsystem"), system("Wrule", "developer"), user("Wask"), answer("Wtell")
)
CONVERSATIONS["prefix"] = row(user("Wask"), answer("Wtell", prefix=True))
CONVERSATIONS["named system"] = row(system("Wsystem") | {"name": "boss"}, user("Wask"), answer("Wtell"))
CONVERSATIONS["normalized unicode"] = row(
    user("Wask ﬁ Å ２ é\u200d"), answer("Wtell ﬃ Ω ① e\u0301 \u00a0 ٣ שלום \u200b Wend")
)
CONVERSATIONS["user blank"] = row(user(" "), answer("Wtell"))
CONVERSATIONS["user empty"] = row(user(""), answer("Wtell"))
CONVERSATIONS["system blank"] = row(system(""), user("Wask"), answer("Wtell"))
CONVERSATIONS["jinja braces"] = row(
    user("Wask {{ m.content }} {% if x %}"), answer("Wtell {{ name }} {% endfor %} {# c #}")
)
CONVERSATIONS["tags as text"] = row(
    user("Wask <tool_call> </think> [INST]"), answer("Wtell <tool_response> [/INST] <b>")
)
CONVERSATIONS["same words"] = row(
    user("Wask"), answer("yes Wtell"), user("yes Wask2"), answer("yes"), user("yes"), answer("yes")
)
CONVERSATIONS["code"] = row(user("Wask\n```python\nprint('x')\n```"), answer('Wtell\n```json\n{"a": [1, 2]}\n```\n'))
CONVERSATIONS["system after user"] = row(user("Wask"), system("Wrule"), answer("Wtell"))
CONVERSATIONS["tool weight"] = row(
    user("Wask"),
    answer("", tool_calls=[call("Warg")]),
    result("Wresult") | {"weight": 0},
    answer("Wtell"),
    tools=[TOOL],
)
CONVERSATIONS["first answer off"] = row(user("Wask"), answer("Wtell", weight=0), user("Wagain"), answer("Wmore"))
CONVERSATIONS["empty arguments"] = one_call(called_with({}))
CONVERSATIONS["odd arguments"] = one_call(call('Wq "x" \\ \n <b> & é 你'), 'Wresult "x"')
CONVERSATIONS["string arguments"] = one_call(called_with('{"q": "Warg"}'), content=None)
CONVERSATIONS["number arguments"] = one_call(called_with({"a": 1.5, "b": None, "c": False, "d": [1, 2]}))
CONVERSATIONS["empty result"] = one_call(call("Warg"), "")
CONVERSATIONS["ends with a result"] = row(
    user("Wask"), answer("", tool_calls=[call("Warg")]), result("Wresult"), tools=[TOOL]
)
CONVERSATIONS["call, then user"] = row(
    user("Wask"),
    answer("", tool_calls=[call("Warg")]),
    result("Wresult"),
    user("Wagain"),
    answer("Wtell"),
    tools=[TOOL],
)
CONVERSATIONS["call without result"] = row(
    user("Wask"), answer("Wbeside", tool_calls=[call("Warg")]), user("Wagain"), answer("Wtell"), tools=[TOOL]
)
CONVERSATIONS["tools unused"] = row(user("Wask"), answer("Wtell"), tools=[TOOL])
CONVERSATIONS["calls, turns"] = row(
    user("Wask"),
    answer("", tool_calls=[call("Warg")]),
    result("Wresult"),
    answer("Wtell"),
    user("Wagain"),
    answer("", tool_calls=[call("Wsecond")]),
    result("Wother"),
    answer("Wmore"),
    tools=[TOOL],
)
CONVERSATIONS["reasoning, call, turns"] = row(
    user("Wask"),
    answer("", reasoning_content="Wthought", tool_calls=[call("Warg")]),
    result("Wresult"),
    answer("Wtell", reasoning_content="Wrethought"),
    user("Wagain"),
    answer("Wmore", reasoning_content="Wlastthought"),
    tools=[TOOL],
)
CONVERSATIONS["reasoning first off"] = row(
    user("Wask"), answer("Wtell", weight=0), user("Wagain"), answer("Wmore", reasoning_content="Wthought")
)
CONVERSATIONS["reasoning both"] = row(
    user("Wask"), answer("<think>\nWinline\n</think>\n\nWtell", reasoning_content="Wthought")
)
CONVERSATIONS["reasoning one line"] = row(user("Wask"), answer("<think>Wthought</think>Wtell"))
CONVERSATIONS["reasoning unclosed"] = row(user("Wask"), answer("<think>\nWthought"))
CONVERSATIONS["reasoning without opener"] = row(user("Wask"), answer("Wthought\n</think>\n\nWtell"))
CONVERSATIONS["reasoning block"] = row(
    user("Wask"), answer([{"type": "thinking", "thinking": "Wthought"}, {"type": "text", "text": "Wtell"}])
)
CONVERSATIONS["reasoning and system"] = row(SYSTEM, user("Wask"), answer("Wtell", reasoning_content="Wthought"))
CONVERSATIONS["two thoughts"] = row(
    user("Wask"), answer("<think>\nWthought\n</think>\n\nWtell\n<think>\nWrethought\n</think>\n\nWmore")
)
CONVERSATIONS["no thinking"] = row(user("Wask"), answer("Wtell"), chat_template_kwargs={"enable_thinking": False})
CONVERSATIONS["thinking asked"] = row(
    user("Wask"), answer("Wtell", reasoning_content="Wthought"), chat_template_kwargs={"enable_thinking": True}
)
CONVERSATIONS["trained system"] = row(SYSTEM | {"weight": 1}, user("Wask"), answer("Wtell"))
CONVERSATIONS["three answers"] = row(user("Wask"), answer("Wtell"), answer("Wmore"), answer("Wlast"))
CONVERSATIONS["only answer"] = row(answer("Wtell"))
CONVERSATIONS["system and answer"] = row(SYSTEM, answer("Wtell"))
CONVERSATIONS["extra fields"] = row(
    user("Wask") | {"id": 7, "ts": "x", "meta": {"a": None}}, answer("Wtell", id=8, refusal=None, annotations=[])
)
CONVERSATIONS["many turns, system"] = row(
    SYSTEM, *[t for i in range(5) for t in (user(f"Wask{i}x"), answer(f"Wtell{i}x"))]
)
CONVERSATIONS["long words"] = row(user("Wask " + "x" * 3000), answer("Wtell " + "y" * 3000))
CONVERSATIONS["newline words"] = row(user("\n\nWask\n\n\n"), answer("Wtell\n\n\n\nWmore\n"))

FAMILIES: dict[str, str] = {}
GEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def chat(body: str, gen: str = GEN, pre: str = "") -> str:
    return pre + "{% for m in messages %}" + body + "{% endfor %}" + gen


IM = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
FAMILIES["upper"] = chat(IM.replace("m.content", "m.content | upper"))
FAMILIES["upper user"] = chat(
    "<|im_start|>{{ m.role }}\n{{ m.content | upper if m.role == 'user' else m.content }}<|im_end|>\n"
)
FAMILIES["trim"] = chat(IM.replace("m.content", "m.content | trim"))
FAMILIES["fold system"] = "{% set ns = namespace(s='') %}" + chat(
    "{% if m.role == 'system' %}{% set ns.s = ns.s + m.content + '\n\n' %}{% else %}<|im_start|>"
    "{{ m.role }}\n{{ ns.s if m.role == 'user' }}{{ m.content }}<|im_end|>\n"
    "{% if m.role == 'user' %}{% set ns.s = '' %}{% endif %}{% endif %}"
)
FAMILIES["date"] = "<|im_start|>system\nToday is {{ strftime_now('%d %b %Y') }}<|im_end|>\n" + chat(IM)
FAMILIES["clock"] = "<|im_start|>system\nNow {{ strftime_now('%H:%M:%S.%f') }}<|im_end|>\n" + chat(IM)
FAMILIES["no system"] = chat(
    "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + IM
)
FAMILIES["strict alternate"] = "{{ bos_token }}" + chat(
    (
        "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
        "{{ '<start_of_turn>model\n' if m.role == 'assistant' else '<start_of_turn>user\n' }}"
        "{{ m.content | trim }}<end_of_turn>\n"
    ),
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
)
FAMILIES["macro"] = (
    "{% macro turn(m) %}<|im_start|>{{ m.role }}\n"
    "{{ m.content if m.content is string else m.content[0].text }}"
    "{{ caller() if caller else '' }}<|im_end|>\n{% endmacro %}"
) + chat("{{ turn(m) }}")
FAMILIES["tags content only"] = chat(
    "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n"
)
FAMILIES["tags with header"] = chat(
    (
        "{% if m.role == 'assistant' %}{% generation %}<|im_start|>assistant\n{{ m.content }}<|im_end|>"
        "{% endgeneration %}\n{% else %}"
    )
    + IM
    + "{% endif %}"
)
FAMILIES["tags last only"] = chat(
    "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}{% generation %}"
    "{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n"
)
FAMILIES["tags on users"] = chat(
    "<|im_start|>{{ m.role }}\n{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n"
)
FAMILIES["tags empty"] = chat(
    "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{% endgeneration %}"
    "{% endif %}{{ m.content }}<|im_end|>\n"
)
FAMILIES["tags trim"] = chat(
    "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' -%}{%- generation -%}{{- m.content -}}"
    "{{ '<|im_end|>' }}{%- endgeneration -%}{% else %}{{ m.content }}<|im_end|>{% endif %}\n"
)
FAMILIES["loops over tools"] = (
    "<|im_start|>system\n{% for t in tools %}{{ t.function.name }}: {{ t.function.description }}\n"
    "{% endfor %}<|im_end|>\n"
) + chat(IM)
FAMILIES["json content"] = chat("<|im_start|>{{ m.role }}\n{{ m.content | tojson }}<|im_end|>\n")
FAMILIES["blocks"] = chat(
    "<|im_start|>{{ m.role }}\n{% for b in m.content %}{% if b.type == 'text' %}{{ b.text }}"
    "{% elif b.type == 'image' %}<image>{% endif %}{% endfor %}<|im_end|>\n"
)
FAMILIES["blocks or text"] = chat(
    "<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for b in m.content %}{{ b.text }}{% endfor %}{% endif %}<|im_end|>\n"
)
FAMILIES["cut"] = chat(IM.replace("m.content", "m.content[:20]"))
FAMILIES["window"] = "{% for m in messages[-4:] %}" + IM + "{% endfor %}" + GEN
FAMILIES["eos at the end"] = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ 'USER: ' if m.role == 'user' else 'ASSISTANT: ' if m.role == 'assistant' else '' }}"
    "{{ m.content }}\n{% endfor %}{{ 'ASSISTANT: ' if add_generation_prompt else eos_token }}"
)
FAMILIES["no end"] = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
FAMILIES["text end"] = (
    "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n### End\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
FAMILIES["no generation prompt"] = chat(IM, "")
FAMILIES["bos each turn"] = chat(
    "{{ bos_token }}[INST] {{ m.content }} [/INST]".join(["{% if m.role == 'user' %}", "{% else %}"])
    + "{{ m.content }}{{ eos_token }}{% endif %}",
    "",
)
FAMILIES["calls first"] = chat(
    "<|im_start|>{{ m.role }}\n{% for c in m.tool_calls or [] %}<tool_call>"
    "{{ c.function | tojson }}</tool_call>\n{% endfor %}{{ m.content or '' }}<|im_end|>\n"
)
FAMILIES["calls xml"] = "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}" + chat(
    "<|im_start|>{{ m.role }}\n{{ m.content or '' }}{% for c in m.tool_calls or [] %}<function="
    "{{ c.function.name }}>{% for k, v in c.function.arguments.items() %}<parameter={{ k }}>\n"
    "{{ v if v is string else v | tojson }}\n</parameter>{% endfor %}</function>"
    "{% endfor %}<|im_end|>\n"
)
FAMILIES["calls or text"] = chat(
    "<|im_start|>{{ m.role }}\n{% if m.tool_calls %}{% for c in m.tool_calls %}<tool_call>"
    "{{ c.function | tojson }}</tool_call>{% endfor %}{% else %}{{ m.content }}"
    "{% endif %}<|im_end|>\n"
)
FAMILIES["one call"] = chat(
    "<|im_start|>{{ m.role }}\n{% if m.tool_calls %}{% if m.tool_calls | length > 1 %}"
    "{{ raise_exception('only one tool call') }}{% endif %}<tool_call>"
    "{{ m.tool_calls[0].function | tojson }}</tool_call>{% else %}{{ m.content }}"
    "{% endif %}<|im_end|>\n"
)
FAMILIES["first call"] = chat(
    "<|im_start|>{{ m.role }}\n{% if m.tool_calls %}<tool_call>"
    "{{ m.tool_calls[0].function | tojson }}</tool_call>{% else %}{{ m.content }}"
    "{% endif %}<|im_end|>\n"
)
FAMILIES["results in user"] = chat(
    "{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>"
    "{{ m.content }}</tool_response><|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n"
    "{{ m.content or '' }}{% for c in m.tool_calls or [] %}<tool_call>"
    "{{ c.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n{% endif %}"
)
FAMILIES["no results"] = chat(
    "{% if m.role != 'tool' %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>"
    "{% endfor %}<|im_end|>\n{% endif %}"
)
FAMILIES["needs variable"] = "{{ 'Mode: ' + mode }}\n" + chat(IM)
FAMILIES["needs number"] = "{% if budget > 3 %}long{% endif %}" + chat(IM)
FAMILIES["needs date"] = "<|im_start|>system\nToday: {{ date_string.strip() }}<|im_end|>\n" + chat(IM)
FAMILIES["thinking opener"] = chat(
    (
        "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n"
        "{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n"
    ),
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
)
FAMILIES["thinking last"] = chat(
    "<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and m.reasoning_content and loop.last %}<think>\n"
    "{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') if m.role == 'assistant' else m.content }}<|im_end|>\n"
)
FAMILIES["harmony all"] = chat(
    (
        "{% if m.role == 'assistant' %}"
        "{% if m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>"
        "{% endif %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|return|>"
        "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}"
    ),
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}",
)
FAMILIES["reversed"] = "{% for m in messages | reverse %}" + IM + "{% endfor %}" + GEN
FAMILIES["twice"] = chat(
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n",
    pre=(
        "{% if messages[0].role == 'user' %}<|im_start|>system\nTask: {{ messages[0].content }}<|im_end|>\n{% endif %}"
    ),
)
FAMILIES["twice answer"] = (
    chat(IM) + "{% if messages[-1].role == 'assistant' %}Summary: {{ messages[-1].content }}{% endif %}"
)
FAMILIES["system last"] = chat(
    "{% if m.role != 'system' %}" + IM + "{% endif %}",
    (
        "{% for m in messages %}{% if m.role == 'system' %}<|im_start|>system\n"
        "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    )
    + GEN,
)
FAMILIES["raises on tools"] = "{% if tools %}{{ raise_exception('tools are not supported') }}{% endif %}" + chat(IM)
FAMILIES["raises on tool role"] = chat(
    "{% if m.role not in ['user', 'assistant', 'system'] %}{{ raise_exception('Unknown role ' + m.role) }}{% endif %}"
    + IM
)
FAMILIES["raises without user first"] = (
    "{% if messages[0].role != 'user' and messages[0].role != 'system' %}"
    "{{ raise_exception('first message must be from user') }}{% endif %}"
) + chat(IM)
FAMILIES["raises last user"] = (
    "{% if messages[-1].role == 'user' and not add_generation_prompt %}"
    "{{ raise_exception('last message must not be from user') }}{% endif %}"
) + chat(IM)
FAMILIES["lower role names"] = chat(
    "<|{{ m.role | upper }}|>{{ m.content }}<|END|>", "{% if add_generation_prompt %}<|ASSISTANT|>{% endif %}"
)
FAMILIES["index names"] = chat(
    "[{{ loop.index }}] {{ m.role }}: {{ m.content }}{{ eos_token }}\n",
    "{% if add_generation_prompt %}[{{ messages | length + 1 }}] assistant: {% endif %}",
)
FAMILIES["count"] = "{{ messages | length }} messages\n" + chat(IM)
FAMILIES["content length"] = chat(
    "<|im_start|>{{ m.role }} {{ m.content | length }}\n{{ m.content }}<|im_end|>\n",
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
)
FAMILIES["starts with"] = chat(
    "<|im_start|>{{ m.role }}\n{{ '/' if m.content.startswith('W') }}{{ m.content }}<|im_end|>\n"
)
FAMILIES["replace"] = chat(IM.replace("m.content", "m.content | replace('\n', ' ')"))
FAMILIES["escape"] = chat(IM.replace("m.content", "m.content | e"))
FAMILIES["truncate words"] = chat(IM.replace("m.content", "m.content | truncate(60)"))
FAMILIES["role default"] = "{% set r = {'user': 'human', 'assistant': 'gpt', 'system': 'sys'} %}" + chat(
    "<|im_start|>{{ r[m.role] }}\n{{ m.content }}<|im_end|>\n",
    "{% if add_generation_prompt %}<|im_start|>gpt\n{% endif %}",
)

KNOWN = {
    "bos each turn": ("answer first", "only answer"),  # the first token of a row is never trained
    "index names": ("answer first", "only answer"),  # no prompt goes before the first answer, and the words say which
}
"""Conversations that the oracle finds wrong, and why they are not."""

template_sweep.TEMPLATES.update(FAMILIES)
