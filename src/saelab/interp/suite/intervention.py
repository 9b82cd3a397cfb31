"""The evaluation `intervention`: features/intervention.py on features that detection has tested. Not of SAEBench."""

from collections.abc import Mapping

from saelab.interp.features.intervention import InterventionConfig, turned_up
from saelab.interp.suite.config import Preset
from saelab.interp.suite.evaluation import Evaluation, Subject
from saelab.interp.suite.judged import judged
from saelab.interp.suite.result import Result

KIND = "intervention"
PRESETS: Mapping[Preset, InterventionConfig] = {
    "paper": InterventionConfig(),
    "small": InterventionConfig(n_latents=12, max_new_tokens=12, prompts=("The", "I think that", "In the morning")),
    "tiny": InterventionConfig(n_latents=3, max_new_tokens=4, prompts=("The", "I")),
}


def _evaluate(subject: Subject, shared: None) -> Result:
    del shared
    text, config, judge = subject.site.text, PRESETS[subject.site.config.preset], subject.judge
    largest = dict(subject.features.select("feature", "max_activation").iter_rows())
    found = turned_up(text.lm, text.clean.site, subject.sae, subject.described, largest, judge=judge, config=config)
    return judged(KIND, found, config.model_dump() | {"judge": judge.name})


EVALUATION = Evaluation(KIND, PRESETS, _evaluate)
