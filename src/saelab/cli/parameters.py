"""How verbs take their parameters, where that is not cyclopts' own way."""

from cyclopts import Parameter

SEVERAL = Parameter(consume_multiple=True)  # values after one name: --doses 0.3 0.7
