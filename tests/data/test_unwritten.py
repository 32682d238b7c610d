"""What of a record a rendered text has not: answers and calls are required, the rest is named."""

import json

import pytest

from jaxtrain.data.messages import BadRecord
from jaxtrain.data.unwritten import require_answer, thought_lost, unwritten

ASK = {"role": "user", "content": "What is it?"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look", "arguments": {}}}]}
TOOL = {"type": "function", "function": {"name": "look", "description": "Looks at a gate."}}
BARE = {"name": "look"}


def test_an_answer_must_have_its_text_and_its_calls():
    require_answer("[look]", CALL)
    require_answer(" So it\n is. ", {"content": "So it is."})
    require_answer("It is.", {"content": "<think>\nhm\n</think>\n\nIt is."})
    with pytest.raises(BadRecord, match=r"lost tool call: .* no place for a call of 'look'"):
        require_answer("</s>", CALL)
    with pytest.raises(BadRecord, match="lost text: the chat template does not write this answer"):
        require_answer("It", {"content": "It is."})
    assert thought_lost("It is.", "hm") and not thought_lost("(hm)It is.", "hm") and not thought_lost("x", "")


def test_messages_and_documents_that_are_not_written():
    system = {"role": "system", "content": "Be kind."}
    assert list(unwritten("Be kind. What is it?", [system, ASK], {})) == []
    assert list(unwritten("What is it?", [system, ASK], {})) == ["a system message"]
    documents = [{"title": "Gates", "text": 'A "gate" is open.'}]
    assert list(unwritten("What is it?", [ASK], {"documents": documents})) == ["documents"]
    assert list(unwritten("What is it?" + json.dumps(documents), [ASK], {"documents": documents})) == []


@pytest.mark.parametrize(
    ("text", "tool", "messages", "lost"),
    [
        ("[] What is it?", TOOL, [ASK], True),
        (f"{json.dumps([TOOL])} What is it?", TOOL, [ASK], False),
        ("What is it? [look]", TOOL, [ASK, CALL], True),  # the name stands in a call alone
        (f"{json.dumps([TOOL])} What is it? [look]", TOOL, [ASK, CALL], False),
        ("What is it? [look]", BARE, [ASK, CALL], True),
        ("tools: look. What is it? [look]", BARE, [ASK, CALL], False),
        ("What is it?", {"type": "web_search"}, [ASK], False),  # it has no name to look for
    ],
)
def test_tools_that_are_not_written(text, tool, messages, lost):
    assert ("tools" in unwritten(text, messages, {"tools": [tool]})) is lost
