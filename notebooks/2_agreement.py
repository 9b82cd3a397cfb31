"""Do two scores of SAEs rank them alike, and could one have seen it? Needs no torch and no language model.

A notebook of plain cells (`# %%`): open it in VS Code, or in Jupyter through Jupytext, or run it as it is.
"""

# %% Sixty SAEs on two language models, as a study left them (docs/reduced-study)
from pathlib import Path

import polars as pl

import saelab

HERE = Path(__file__).parents[1] if "__file__" in globals() else Path("..")
table = pl.read_csv(HERE / "docs" / "reduced-study" / "saes.csv")
print(table.select("lm", "architecture", "level", "fvu", "interpretability").head())

# %% Fidelity and interpretability: Kendall's tau_b, with intervals that resample SAEs, and language models
found = saelab.agreement(
    table, x="fvu", y="interpretability", axes={"architecture": "architecture", "level": "level", "lm": "lm"}
)
overall = found.filter(pl.col("mode") == "overall")
print(overall.select("value", "low", "high", "p", "n", "interval_method", "state"))

# %% Of which axis is it made? Within one architecture; within one level; psi is the mean over an axis's groups
print(found.filter(pl.col("mode") != "overall").select("mode", "axis", "group", "value", "n", "state").head(12))

# %% The other side: how many SAEs does it take to see a tau at all, four times in five?
from saelab.stats.power import smallest_taus

print(smallest_taus([10, 20, 30, 90]).select("n", "smallest_tau"))

# %% So of ten SAEs a tau of 0.4 is not "absent" when it is not found: it could not have been found.
ten = saelab.agreement(table.head(10), x="fvu", y="interpretability")
print(ten.select("value", "low", "high", "p", "n"))
