"""How a model says no, and how an endpoint says that a filter did: one file of patterns for every kind of question.

A text is a refusal where it says so and gives no answer; with an answer, only where it *opens* with one: a judge may
quote the refusal that it rates. Matching is on words alone and knows no rubric.
"""

import re

_VERBS = (
    r"(?:help|assist|provide|rate|evaluate|assess|judge|answer|comply|continue|engage|participate|fulfil+|discuss|"
    r"respond|do (?:that|this|so)|support|process|review|analy[sz]e|complete|share|create|produce|write)"
)
_UNABLE = r"(?:am|['’]m) (?:not able|unable) to|must decline to"
_NOT = rf"(?:can['’]?t|can ?not|could(?:n['’]t| not)|won['’]?t|will not|{_UNABLE})"

# What a refusal says, in the languages in which models refuse most often.
_SAYS = (
    r"\bI(?:['’]m| am) (?:very |so |truly )?sorry\b",
    r"\bI apologi[sz]e\b",
    rf"\bI ?{_NOT}\b",
    r"\bI(?:['’]d| would) (?:rather|prefer) not\b",
    r"\bI (?:must |have to |respectfully )?decline\b",
    r"(?:抱歉|对不起|我(?:无法|不能|不可以))",
    r"\b(?:извините|простите|к сожалению, я|я не могу)\b",
    r"\b(?:es tut mir leid|ich kann (?:nicht|dabei nicht))\b",
    r"\b(?:je suis désolée?|je ne peux pas)\b",
    r"\b(?:lo siento|no puedo)\b",
)
# How one opens: these, or what cannot be done is the task itself ("I cannot find a mistake" is an answer).
_OPENS = (
    r"(?:I['’]?m|I am) (?:very |so |truly )?sorry\b|sorry\b|(?:my |I )apolog(?:ies|i[sz]e)\b|unfortunately, I\b",
    rf"(?:as an AI[^.\n]*?,? )?I ?{_NOT} (?:\w+ )?{_VERBS}\b",
    r"I (?:must |have to |respectfully )?decline\b|I(?:['’]d| would) (?:rather|prefer) not\b",
    r"(?:很|非常)?抱歉|对不起|我(?:无法|不能)|извините|простите|es tut mir leid|je suis désolé|lo siento",
)
_FILTERED = (
    r"content[_ ]?(?:filter|management|exists risk)|ResponsibleAI|data_inspection|moderation|flagged|safety|sensitive|"
    r"prohibited_content|blocklist|recitation"
)

_SAID = re.compile("|".join(_SAYS), re.IGNORECASE)
_OPENED = re.compile(rf"[\W_]*(?:{'|'.join(_OPENS)})", re.IGNORECASE)
_FILTER = re.compile(_FILTERED, re.IGNORECASE)


def refuses(reply: str, *, answered: bool) -> bool:
    """Whether a reply is a refusal. answered: it also holds an answer of the form that was asked for."""
    return _OPENED.match(reply) is not None if answered else _SAID.search(reply) is not None


def filtered(message: str) -> bool:
    """Whether an endpoint's error says that a content filter, not the form of the call, was the cause."""
    return _FILTER.search(message) is not None
