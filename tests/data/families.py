"""Chat templates in the shape of families that TRL does not ship, each cut down to what is particular about it."""

from __future__ import annotations

ALTERNATE = (
    "{% for m in turns %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% endfor %}"
)
FIRST_SYSTEM = (
    "{% if messages[0].role == 'system' %}{% set system, turns = messages[0].content, messages[1:] %}"
    "{% else %}{% set system, turns = '', messages %}{% endif %}"
)
TOOL_LIST = "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"


def tagged(user: str, assistant: str, system: str = "", end: str = "{{ eos_token }}") -> str:
    """Each turn behind the tag of its role; a system text without a tag of its own behind the user's."""
    return (
        f"{{% for m in messages %}}{{% if m.role == 'assistant' %}}{assistant}{{{{ m.content }}}}{end}"
        f"{{% elif m.role == 'system' %}}{system or user}{{{{ m.content }}}}{end}"
        f"{{% else %}}{user}{{{{ m.content }}}}{end}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{assistant}{{% endif %}}"
    )


FAMILIES = {
    "llama2": FIRST_SYSTEM + ALTERNATE + (
        "{% for m in turns %}{% if m.role == 'user' %}{{ bos_token }}[INST] {% if loop.first and system %}<<SYS>>\n"
        "{{ system }}\n<</SYS>>\n\n{% endif %}{{ m.content | trim }} [/INST]"
        "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
    ),
    "mistral_v3": FIRST_SYSTEM + (
        "{{ bos_token }}{% for m in turns %}"
        "{% if m.role == 'user' %}{% if tools and loop.first %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]"
        "{% endif %}[INST] {% if loop.first and system %}{{ system }}\n\n{% endif %}{{ m.content }}[/INST]"
        "{% elif m.tool_calls %}[TOOL_CALLS] [{% for c in m.tool_calls %}"
        "{% if not c.id is defined or c.id | length != 9 %}"
        "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
        "{{ (c.function | tojson)[:-1] }}, \"id\": \"{{ c.id }}\"}{{ ', ' if not loop.last else '' }}{% endfor %}]"
        "{{ eos_token }}{% elif m.role == 'tool' %}{% if m.tool_call_id | length != 9 %}"
        "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
        "[TOOL_RESULTS] {\"content\": {{ m.content }}, \"call_id\": \"{{ m.tool_call_id }}\"}[/TOOL_RESULTS]"
        "{% elif m.role == 'assistant' %} {{ m.content | trim }}{{ eos_token }}"
        "{% else %}{{ raise_exception('Only user, assistant and tool roles are supported') }}{% endif %}{% endfor %}"
    ),
    "vicuna": (
        "{{ bos_token }}{% if messages[0].role != 'system' %}A chat with an assistant. {% endif %}"
        "{% for m in messages %}"
        "{% if m.role == 'assistant' %}ASSISTANT: {{ m.content }}{{ eos_token }}"
        "{% else %}{{ 'USER: ' if m.role == 'user' }}{{ m.content }} {% endif %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    ),
    "zephyr": tagged("<|user|>\n", "<|assistant|>\n", "<|system|>\n", "{{ eos_token }}\n"),
    "olmo": tagged("<|user|>\n", "<|assistant|>\n", "<|system|>\n", "{{ eos_token if m.role == 'assistant' }}\n"),
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "internlm": tagged("<|User|>:", "<|Bot|>:", "<|System|>:", "<eoa>\n"),
    "granite": tagged(
        "<|start_of_role|>user<|end_of_role|>", "<|start_of_role|>assistant<|end_of_role|>",
        "<|start_of_role|>system<|end_of_role|>", "<|end_of_text|>\n",
    ),
    "falcon": tagged("User: ", "Assistant: ", "System: ", "{{ eos_token if m.role == 'assistant' }}\n"),
    "command_r": FIRST_SYSTEM + ALTERNATE + (
        "{{ bos_token }}{% if system %}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{{ system }}<|END_OF_TURN_TOKEN|>"
        "{% endif %}"
        "{% for m in turns %}<|START_OF_TURN_TOKEN|>{{ '<|USER_TOKEN|>' if m.role == 'user' else '<|CHATBOT_TOKEN|>' }}"
        "{{ m.content | trim }}<|END_OF_TURN_TOKEN|>{% endfor %}"
        "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"
    ),
    "hermes_tools": TOOL_LIST + (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'tool' %}<tool_response>\n{{ m.content }}\n"
        "</tool_response>{% else %}{{ m.content or '' }}{% for c in m.tool_calls or [] %}\n<tool_call>\n"
        "{{ c.function | tojson }}\n</tool_call>{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "smollm3": TOOL_LIST + (
        "<|im_start|>system\n## Metadata\n{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
        "<|im_end|>\n{% for m in messages %}{% if not (loop.first and m.role == 'system') %}"
        "<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}\n{{ m.content or '' }}"
        "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n{% endif %}"
    ),
    "deepseek_r1": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
        "{% elif m.role == 'assistant' %}<｜Assistant｜>"
        "{% if m.content and '</think>' in m.content %}{{ m.content.split('</think>')[-1] }}"
        "{% else %}{{ m.content or '' }}{% endif %}{{ eos_token }}{% else %}{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
    ),
    "harmony": (
        "<|start|>system<|message|>Reasoning: medium<|end|>{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% if m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}"
        "<|start|>assistant<|channel|>final<|message|>{{ m.content }}{{ '<|return|>' if loop.last else '<|end|>' }}"
        "{% else %}<|start|>{{ 'developer' if m.role == 'system' else m.role }}<|message|>{{ m.content }}<|end|>"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
    ),
    "kimi": (
        "{% if tools %}<|im_system|>tool_declare<|im_middle|>{{ tools | tojson }}<|im_end|>{% endif %}"
        "{% for m in messages %}<|im_{{ m.role if m.role in ('user', 'assistant') else 'system' }}|>{{ m.role }}"
        "<|im_middle|>{{ m.content or '' }}{% if m.tool_calls %}<|tool_calls_section_begin|>{% for c in m.tool_calls %}"
        "<|tool_call_begin|>{{ c.function.name }}<|tool_call_argument_begin|>{{ c.function.arguments | tojson }}"
        "<|tool_call_end|>{% endfor %}<|tool_calls_section_end|>{% endif %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_assistant|>assistant<|im_middle|>{% endif %}"
    ),
    "minimax": (
        "{% for m in messages %}]~b]{{ 'ai' if m.role == 'assistant' else m.role }}\n"
        "{% if m.role == 'assistant' and m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n"
        "{% endif %}{{ m.content }}[e~[\n{% endfor %}{% if add_generation_prompt %}]~b]ai\n<think>\n{% endif %}"
    ),
    "hunyuan": tagged("<|hy_User|>", "<|hy_Assistant|>", "<|hy_System|>", "{{ eos_token if m.role == 'assistant' }}"),
    "seed_oss": (
        "{% for m in messages %}<seed:bos>{{ m.role }}\n"
        "{% if m.role == 'assistant' and m.reasoning_content %}<seed:think>{{ m.reasoning_content }}</seed:think>\n"
        "{% endif %}{{ m.content }}<seed:eos>{% endfor %}{% if add_generation_prompt %}<seed:bos>assistant\n{% endif %}"
    ),
}  # fmt: skip
"""Templates by the family whose shape they have."""
