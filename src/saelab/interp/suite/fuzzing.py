"""The evaluation `fuzzing`: features/fuzzing.py on all features that detection has tested. Not of SAEBench."""

from saelab.interp.features.detection import detect
from saelab.interp.features.fuzzing import fuzzing_trials
from saelab.interp.suite.evaluation import Evaluation, Subject
from saelab.interp.suite.judged import judged
from saelab.interp.suite.result import Result
from saelab.judges.marks import FUZZING

KIND = "fuzzing"


def _evaluate(subject: Subject, shared: None) -> Result:
    del shared
    text, judge, seed = subject.site.text, subject.judge, subject.site.config.seed
    trials = list(fuzzing_trials(subject.codes, text.finder, text.strings, subject.described, seed))
    found = detect(trials, judge, calibrated=text.config.calibrated, task=FUZZING)
    return judged(KIND, found, {"judge": judge.name})


EVALUATION = Evaluation(KIND, {}, _evaluate)
