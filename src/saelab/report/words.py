"""How numbers, missing values and hostile text read on the page; and what a number of SAEs allows one to say.

A missing value is words ("missing (3): no judged text"), never 0 and never NaN: `number` refuses anything that is not
finite. Text from tokenizers, judges and models is untrusted: escaping is the template's work (autoescape), but what
escaping leaves dangerous or unreadable (controls, direction overrides, lone surrogates) is made visible here.
Knows nothing of files, tables or figures.
"""

import math
import unicodedata
from collections.abc import Sequence

# Joiners that ordinary scripts and emoji need; all other format characters are spelled out.
_HARMLESS = {"\u200c", "\u200d"}

LABELS = {"n_layers": "layers", "d_model": "width", "n_saes": "SAEs", "dtype": "number format"}
# States that stages write into their tables, as reasons a reader understands.
REASONS = {
    "dead": "never fired",
    "untested": "outside the sample",
    "constant": "one of the two scores is the same everywhere",
    "undefined": "not defined here",
    "no_dev_score": "no complete score on the development instructions",
    "no_test_score": "no complete score on the held-out instructions",
    "refused": "the judge refused",
    "unparsed": "the judge's answer could not be read",
    "missing": "no judgement",
    "wrong_reading": "wrong conventions",
}


def visible(text: str) -> str:
    """The same text with line ends as ↵ and controls, overrides of direction and surrogates spelled out."""
    return "".join(map(_visible, text.replace("\r\n", "\n")))


def _visible(char: str) -> str:
    if char == "\n":
        return "↵"
    if char == "\t":
        return "⇥"
    if char in _HARMLESS or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return char
    return f"\\u{ord(char):04x}"


def finite(value: object) -> float | None:
    """A number as a float; None for everything that is none (null, NaN, infinite)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def number(value: float | int, digits: int = 2, *, signed: bool = False) -> str:
    """A finite number with a true minus sign and thousands separators; anything else is a `ValueError`."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a number to print; a missing value is words")
    text = f"{value:{'+' if signed else ''},.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def adaptive(value: float | int) -> str:
    """A number whose size is unknown, with three to four meaning digits."""
    if value == 0 or not math.isfinite(value):
        return number(value, 0)
    size = math.floor(math.log10(abs(value)))
    return number(value, max(0, 2 - size)) if size >= -4 else f"{value:.1e}".replace("-", "−")


def interval(low: float | int, high: float | int, digits: int = 2) -> str:
    """An interval in brackets."""
    return f"[{number(low, digits)}, {number(high, digits)}]"


def percent(share: float | int, digits: int = 0, *, signed: bool = False) -> str:
    """A share (1 = all) as percent; a small one is shown as below the last digit, not as zero."""
    least = 10.0 ** -(digits + 2)
    if 0 < share < least / 2 and not signed:
        return f"<{number(100 * least, digits)} %"
    return number(100 * share, digits, signed=signed) + " %"


def p_value(p: float | int) -> str:
    """A p value to three places; smaller ones as a bound."""
    return "<0.001" if p < 0.0005 else number(p, 3)


def duration(seconds: float | int) -> str:
    """Seconds as a person says them."""
    if seconds < 59.5:
        return f"{number(seconds, 1 if seconds < 10 else 0)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def plural(n: int, noun: str, many: str | None = None) -> str:
    """A count with its noun: "1 SAE", "17 SAEs"."""
    return f"{number(n, 0)} {noun if n == 1 else many or noun + 's'}"


def listing(items: Sequence[str]) -> str:
    """Names in a row: "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def reason(state: object, of: str = "cases") -> str:
    """Why there is no value, from a table's state; an unknown state is said as it is written. of: what n counts."""
    if not isinstance(state, str) or state in ("", "ok"):
        return "no value was recorded"
    if state == "too_few":
        return f"too few {of}"
    return REASONS.get(state, state.replace("_", " "))


def upper(text: str) -> str:
    """The same text with a capital first letter."""
    return text[:1].upper() + text[1:]


def label(key: str) -> str:
    """A key of a summary as a label: `attention_sinks_masked` is "attention sinks masked"."""
    return LABELS.get(key, key.replace("_", " "))


def chance_spread(n: int) -> float:
    """Null standard deviation of Kendall's tau of n untied pairs, sqrt(2(2n+5) / 9n(n-1)) (Kendall 1938)."""
    return math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1)))


def allowance(n: int) -> str:
    """What n SAEs allow one to say about a rank correlation, in one or two sentences.

    Up to four items the smallest possible two-sided permutation p, 2/n!, is above 0.05. Beyond, 1.96 and 2.80 standard
    deviations under the null are the tau that stands out from chance and the one found four times in five.
    """
    if n < 3:
        return f"{plural(n, 'SAE')} cannot be ranked against anything: no agreement can be stated."
    least = 2 / math.factorial(n)
    if least > 0.05:
        return (
            f"With {plural(n, 'SAE')} the smallest p that any data could give is {number(least, 2)}: "
            "nothing here can be told from chance."
        )
    spread = chance_spread(n)
    found = min(2.80 * spread, 1.0)
    return (
        f"With {plural(n, 'SAE')} a tau nearer to zero than about {number(1.96 * spread)} cannot be told from chance, "
        f"and, were both scores without noise, only a true tau of about {number(found)} or more would be found four "
        "times in five (power 0.8, normal approximation); noise raises that."
    )


def verdict(value: float | int, low: float | None, high: float | None, p: float | None = None) -> str:
    """What an agreement, its interval and its p say about the study's question, in one clause.

    A direction is told where the interval excludes zero and p is below 0.05, as in the study's own verdict.
    """
    if low is None or high is None:
        return "no interval could be computed, so nothing is concluded"
    if low > 0 or high < 0:
        if p is None or p >= 0.05:
            return "the interval excludes zero but p does not say so: this study cannot say whether the two go together"
        return f"SAEs that score as more interpretable tend to steer {'better' if low > 0 else 'worse'} here"
    side = "positive" if value > 0 else "negative" if value < 0 else "zero"
    if p is not None and p < 0.05:
        return f"the estimate is {side} and p is small, but its interval includes zero: a hint, not a finding"
    return f"the estimate is {side} but its interval includes zero: this study cannot say whether the two go together"
