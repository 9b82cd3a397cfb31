"""The public face: an object that must be open is asked for in a sentence, where a name was given."""

import subprocess
import sys

CALLS = """
import saelab
def told(call):
    try:
        call()
    except saelab_error as error:
        print(error, error.hint)
    else:
        print("accepted")
from saelab.core.errors import SaelabError as saelab_error
sae = object()
told(lambda: saelab.match("path:a", "path:b"))
told(lambda: saelab.save_sae("path:a", "folder"))
told(lambda: saelab.feature_effects("smollm2-135m", sae))
told(lambda: saelab.feature_effects(sae, "path:a"))
told(lambda: saelab.to_saebench("path:a"))
"""


def test_a_name_is_not_taken_for_what_it_names() -> None:
    """In a process of its own: here beartype would refuse it before the call does."""
    out = subprocess.run([sys.executable, "-c", CALLS], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(out) == 5 and all("is a name" in line for line in out), out
    assert "saelab.LanguageModel.load" in out[2] and sum("saelab.load_sae" in line for line in out) == 4
