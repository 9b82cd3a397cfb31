"""Configs refuse unknown keys and name themselves by digest; seeds come from names; errors name the nearest."""

from typing import Literal

import numpy as np
import pytest
from pydantic import ValidationError

from saelab.core.config import Config
from saelab.core.errors import UserError, nearest
from saelab.core.hardware import limited, threads
from saelab.core.records import Judgement
from saelab.core.seeds import numpy_generator, seed_of


class Example(Config):
    width: int = 4
    name: str = "x"


class Several(Config):
    choice: Literal["a", "b"] | tuple[int, ...] = "a"
    part: str | Example | None = None


def test_unknown_keys_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"unknown key 'widht'. Did you mean width"):
        Example.parse({"widht": 3})


def test_what_a_union_refuses_is_one_sentence_at_its_key() -> None:
    """pydantic names the union's members between the keys, one message each."""
    for bad in (3, {"a": 1}):
        with pytest.raises(ValidationError) as raw:
            Several.model_validate({"choice": bad})
        assert len(raw.value.errors()) == 2 and "tuple[int, ...]" in str(raw.value), "control: what pydantic says"
        with pytest.raises(UserError, match=r"Several: choice: Input should be 'a' or 'b', or a list$"):
            Several.parse({"choice": bad})
    with pytest.raises(UserError, match=r"choice\.1: [^;]*integer"):
        Several.parse({"choice": [1, "x"]})
    with pytest.raises(UserError, match=r"part\.widht: unknown key 'widht'. Did you mean width"):
        Several.parse({"part": {"widht": 1}})


def test_digest_names_the_content() -> None:
    assert Example().digest() == Example(width=4).digest()
    assert Example().digest() != Example(width=5).digest()


def test_yaml_round_trip(tmp_path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(Example(width=7).to_yaml())
    assert Example.from_yaml(path) == Example(width=7)
    path.write_text("width: [1")
    with pytest.raises(UserError, match="not valid YAML"):
        Example.from_yaml(path)
    with pytest.raises(UserError, match="no file"):
        Example.from_yaml(tmp_path / "none.yaml")


def test_named_streams_are_stable_and_independent() -> None:
    assert seed_of("a", 1) == seed_of("a", 1)
    assert len({seed_of("a", 1), seed_of("a", "1"), seed_of("a1"), seed_of("a", 2)}) == 4
    x, y = (numpy_generator("s", i).normal(size=2000) for i in (0, 1))
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.1
    assert np.array_equal(x, numpy_generator("s", 0).normal(size=2000)), "control: the same names, the same stream"


def test_nearest_names() -> None:
    assert "Did you mean topk" in nearest("topq", ["topk", "relu"])
    assert "Did you mean" not in nearest("zzz", ["topk", "relu"])


def test_a_failed_judgement_has_no_value() -> None:
    Judgement("ok", 1.0, "lexical")
    Judgement("missing", None, "lexical", "timeout")
    with pytest.raises(ValueError):
        Judgement("missing", 0.0, "lexical")


def test_limited_threads_are_put_back() -> None:
    before = threads()
    with pytest.raises(ZeroDivisionError), limited(before + 1) as used:
        assert used == threads() == before + 1
        raise ZeroDivisionError
    assert threads() == before
    with limited(None) as used:
        assert used == before
