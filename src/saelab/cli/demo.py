"""`saelab demo`: the demo study that comes with the package, run into ./demo."""

from importlib import resources
from pathlib import Path

from saelab.cli.run import finish


def demo(*, out: Path = Path("demo"), json: bool = False) -> int:
    """Run the demo study.

    Parameters
    ----------
    out:
        Run folder.
    json:
        Print the summary as JSON.
    """
    with resources.as_file(resources.files("saelab.study").joinpath("demo.yaml")) as study:
        return finish(study, out, as_json=json)
