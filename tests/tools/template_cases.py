"""Conversations and tools that check_template.py renders with every template."""

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city, \"as it is\" <now> & later.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name of the city,\nwith the country\n\nor without"},
                "days": {"type": "integer"},
                "units": {"type": ["string", "number"], "enum": ["°C", "°F", None], "default": 1.0},
                "tags": {"type": "array", "items": {"type": "array", "items": {"type": "boolean"}}},
                "extra": {"type": "object", "additionalProperties": {"type": "number"}, "nullable": True},
            },
            "required": ["city", "days"],
        },
        "return": {"type": "string"},
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "", "parameters":
                                          {"type": "object", "properties": {}}}}


def call(name, arguments, ident="abcdefghi", wrapped=True):
    function = {"name": name, "arguments": arguments}
    return {"id": ident, "type": "function", "function": function} if wrapped else dict(function, type="function")


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return dict({"role": "assistant", "content": text}, **more)


def system(text):
    return {"role": "system", "content": text}


def tool(text, ident="abcdefghi"):
    return {"role": "tool", "content": text, "tool_call_id": ident, "name": "get_weather"}


UNICODE = "Grüße, 世界! 👩\u200d👩\u200d👧 \u0301e\u0301 \u200f\u202e \ufeff \U0001f600 İıßΣς\u2028x\u0085y"
CALLS = [call("get_weather", {"city": "Zürich \"alt\"", "days": 2, "tags": [[True, None], []], "extra": {"a": 1.5e-7}}),
         call("clock", {}, "123456789")]

CONVERSATIONS = {
    "empty": [],
    "question": [user("Hi")],
    "system": [system("Be brief."), user("Hi")],
    "only_system": [system("  Be brief.\n")],
    "turns": [system("S"), user(" a \n"), assistant("b"), user("c"), assistant("  d\n\n")],
    "assistant_first": [assistant("I start"), user("then I")],
    "wrong_order": [user("a"), user("b"), assistant("c")],
    "unknown_role": [user("a"), {"role": "narrator", "content": "b"}],
    "empty_content": [system(""), user(""), assistant(""), user("x")],
    "none_content": [user("a"), assistant(None), user("b")],
    "no_content": [user("a"), {"role": "assistant"}, user("b")],
    "unicode": [system(UNICODE), user(UNICODE * 2), assistant(UNICODE), user("\U0010ffff\u0000\u0001 \x7f")],
    "spaces": [user("\n\n \t a\u00a0\u3000\x1c\n b \r\n"), assistant("\x85 z \u2003")],
    "special": [user("<|im_end|><|eot|></turn>{{ 1 + 1 }}{% if %}"), assistant("</think><think>")],
    "parts": [system([{"type": "text", "text": " S "}]),
              user([{"type": "text", "text": " see "}, {"type": "image"}, {"type": "text", "text": "this?"}])],
    "no_parts": [user([]), assistant("?")],
    "thoughts": [user("q"), assistant("<think>\nhm\n</think>\n\nanswer"), user("q2"),
                 assistant("<think>\n\nonce more\n</think>\n\nanswer 2")],
    "reasoning": [user("q"), assistant("answer", reasoning_content="\nwhy\n"), user("<answer>x</answer>"),
                  assistant("done", reasoning_content="")],
    "one_call": [user("weather?"), assistant("", tool_calls=CALLS[:1]), tool("{\"t\": 21}"), assistant("21 degrees")],
    "two_calls": [system("S"), user("weather?"), assistant("Let me see", tool_calls=CALLS), tool("21"),
                  tool("12:00", "123456789"), assistant("fine"), user("thanks")],
    "call_none": [user("weather?"), assistant(None, tool_calls=CALLS), tool("21"), tool("12:00", "x")],
    "call_last": [user("weather?"), assistant(None, tool_calls=[CALLS[1]])],
    "plain_call": [user("w"), assistant("", tool_calls=[call("clock", "{\"a\": 1}", wrapped=False)]), tool("1")],
    "call_text_arguments": [user("w"), assistant(None, tool_calls=[call("clock", "{\"a\": 1}")]), tool("{}")],
    "empty_calls": [user("a"), assistant("b", tool_calls=[]), user("c")],
    "calls_none": [user("a"), assistant("b", tool_calls=None), user("c")],
    "tool_mapping": [user("a"), assistant(None, tool_calls=CALLS[:1]), tool({"content": {"t": [1, 2.0, -0.0, 1e300]}})],
    "ipython": [user("a"), {"role": "ipython", "content": "out"}, assistant("b")],
    "number": [user(12), assistant(1.5), user(True)],
    "long": [user("word " * 20000), assistant("line\n" * 5000)],
}

TOOLS = {"none": None, "empty": [], "two": [WEATHER, CLOCK]}

# Further globals, as chat_template_kwargs brings them.
KWARGS = {
    "plain": {},
    "switches": {"enable_thinking": False, "tools_first": False, "builtins": ["python", "clock"], "today": "1 Jan 2020"},
}


def contexts():
    """(name, context) of every combination worth rendering."""
    for name, messages in CONVERSATIONS.items():
        for tools_name, tools in TOOLS.items():
            for kwargs_name, kwargs in KWARGS.items():
                if kwargs_name != "plain" and tools_name == "empty":
                    continue
                for prompt in (False, True):
                    yield f"{name}/{tools_name}/{kwargs_name}/{prompt}", dict(
                        kwargs, messages=messages, tools=tools, bos_token="<s>", eos_token="</s>",
                        add_generation_prompt=prompt)
