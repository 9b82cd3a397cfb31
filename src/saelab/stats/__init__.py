"""Statistics over SAEs and their features, for anybody's tables: what docs/statistics.md describes, under one name.

Tables in, tables out; every estimate has its interval, p and family, or a state that says why not. No torch. Modules of
this package import each other's files, never this one.
"""

from saelab.stats.agreement import agreement, read_and_agree
from saelab.stats.effects import group_differences, partial_tau, tau_difference
from saelab.stats.features import feature_agreement
from saelab.stats.gains import selection_gain, steering_gains
from saelab.stats.less import less_than
from saelab.stats.means import mean_estimate
from saelab.stats.power import smallest_taus
from saelab.stats.regression import rank_regression
from saelab.stats.reliability import corrected_tau, reliability
from saelab.stats.spread import smallest_tau, spread_table
from saelab.stats.table_files import open_table, saebench_table
from saelab.stats.tables import agreement_table, selection_table

__all__ = [
    "agreement",
    "agreement_table",
    "corrected_tau",
    "feature_agreement",
    "group_differences",
    "less_than",
    "mean_estimate",
    "open_table",
    "partial_tau",
    "rank_regression",
    "read_and_agree",
    "reliability",
    "saebench_table",
    "selection_gain",
    "selection_table",
    "smallest_tau",
    "smallest_taus",
    "spread_table",
    "steering_gains",
    "tau_difference",
]
