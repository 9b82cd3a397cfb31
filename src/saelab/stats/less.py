"""One kind of thing less another that is its own control: SAEs less the random dictionary of their site and size.

    difference = mean over the n SAEs of (mean of its features - mean of its dictionary's)
    variance   = (of the SAEs) + sum over dictionaries of (its share of the SAEs)^2 v / N

What the SAEs add depends on what is asked. Of *these* SAEs (`units="features"`) features alone are drawn:
sum of s_i^2 / N_i over n^2, s_i^2 the variance within SAE i. Of SAEs *like* these (`units="saes"`) the SAEs are drawn
too: s^2 / n, s^2 the variance of their n differences, of at least three, within dictionaries: between two dictionaries
the differences hold the noise of both, which v counts already. Where every SAE has a dictionary of its own, s^2 is over
all of them and v is not added. v is the variance of the N features of a dictionary, which several SAEs share. Interval
and p by Welch's t with the Welch-Satterthwaite degrees of freedom (Welch 1947). Two dictionaries of one kind are taken
to differ by their features alone: both are drawn, and neither is trained.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import scipy
from jaxtyping import Float

from saelab.stats.estimate import FEWEST, Estimate
from saelab.stats.units import over_units, units_of

Values = Float[np.ndarray, "_"]


def less_than(
    groups: Sequence[Values],
    own: Sequence[Hashable],
    others: Mapping[Hashable, Values],
    *,
    units: Literal["features", "saes"] = "features",
    clusters: Sequence[str] = (),
) -> Estimate:
    """Mean of the groups, each less the mean of its own other, with its 95 % interval and two-sided p.

    groups: the values of each SAE's features, NaN where missing. own: by group, the name of its dictionary in `others`;
    a group whose dictionary has fewer than three values is left out, and the note counts it. units: what the interval
    speaks of, see the head of this file. clusters: by group the LM; where there are two or more, SAEs
    like these are of LMs like these (`units.py`). n counts the units of both sides.
    """
    kept = {name: values[np.isfinite(values)] for name, values in others.items()}
    kept = {name: values for name, values in kept.items() if values.size >= FEWEST}
    parts = [(g[np.isfinite(g)], name) for g, name in zip(groups, own, strict=True)]
    lms = [lm for lm, (g, name) in zip(clusters, parts, strict=False) if g.size and name in kept]
    parts = [(g, name) for g, name in parts if g.size]
    without = sum(name not in kept for _, name in parts)
    parts = [(g, name) for g, name in parts if name in kept]
    taken = {name: kept[name] for name in dict.fromkeys(name for _, name in parts)}
    dropped = sum(int((~np.isfinite(v)).sum()) for v in [*groups, *others.values()])
    note = f"{without} without a random dictionary of their own are left out" if without else None
    clustered = units == "saes"
    count = len(parts) if clustered else sum(g.size for g, _ in parts)
    n = count + sum(v.size for v in taken.values())
    start = Estimate(statistic="difference", state="too_few", n=n, dropped=dropped, note=note)
    if count < FEWEST or min((g.size for g, _ in parts), default=0) < (1 if clustered else 2):
        return start
    apart = np.array([g.mean() - taken[name].mean() for g, name in parts])
    if clustered and len(set(lms)) > 1:
        found = over_units(start, lambda w: w @ apart / w.sum(axis=1), units_of(count, np.array(lms), "LMs"))
        return replace(found, note="; ".join(filter(None, [note, found.note])))
    alone = clustered and len(taken) == count  # the dictionaries' noise is in the differences
    if alone:
        shares = [(apart.var(ddof=1) / count, count - 1)]
    elif clustered:
        centre = np.array([apart[[mine == name for _, mine in parts]].mean() for _, name in parts])
        freedom = count - len(taken)
        shares = [(float(((apart - centre) ** 2).sum()) / freedom / count, freedom)]
    else:
        shares = [(g.var(ddof=1) / g.size / len(parts) ** 2, g.size - 1) for g, _ in parts]
    for name, values in taken.items():
        if alone:
            break
        weight = sum(mine == name for _, mine in parts) / len(parts)
        shares.append((weight**2 * values.var(ddof=1) / values.size, values.size - 1))
    value, variances = float(apart.mean()), np.array([v for v, _ in shares])
    start = replace(start, state="ok", value=value)
    se = float(np.sqrt(variances.sum()))
    if se < 1e-12:
        return replace(start, note="nothing varies, so there is no interval")
    freedom = se**4 / float((variances**2 / np.array([d for _, d in shares])).sum())
    reach = float(scipy.stats.t.ppf(0.975, freedom)) * se
    p = 2 * float(scipy.stats.t.sf(abs(value) / se, freedom))
    method = "Welch t, SAEs and features" if clustered else "Welch t over features"
    return replace(start, low=value - reach, high=value + reach, se=se, p=p, interval_method=method, p_method="Welch t")
