"""Other language models through the whole tiny study: a window without layer types, experts, text and images."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from saelab.lm.shrink import lively_model, small_config
from saelab.lm.tiny import tiny_tokenizer
from saelab.store.layout import RunFolder
from saelab.store.tables import read_table
from saelab.study.spec import StudyConfig
from saelab.workflow import run_study


@pytest.mark.sweep
@pytest.mark.parametrize("family", ["mistral", "mixtral", "gemma3"])
def test_the_whole_study(family: str, study_data: dict[str, Any], tmp_path: Path) -> None:
    config = small_config(AutoConfig.for_model(family))
    text = config.get_text_config()
    text.vocab_size, text.max_position_embeddings = 384, 512
    weights = tmp_path / "lm"
    lively_model(config).save_pretrained(weights)
    tiny_tokenizer(384).save_pretrained(weights)
    study_data["models"][0]["lm"] = f"path:{weights}"
    run_study(StudyConfig.parse(study_data), tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert run.report.is_file()
    steered = read_table(run.stats.root / "selection.parquet")
    assert len(steered) and steered["arm"].n_unique() > 1
