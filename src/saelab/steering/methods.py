"""The names in the column `method` of steering's tables: what a text was steered with, or that it was not.

Fitted directions have names of their own (concepts/directions/catalogue.py). Needs no torch, so that tables and pages
can name them.
"""

SAE_FEATURE = "sae_feature"  # the decoder row of a feature
RANDOM_DIRECTION = "random_direction"  # as long as the feature's, drawn isotropically
RANDOM_FEATURE = "random_feature"  # another feature's, as long
UNSTEERED = "unsteered"
PROMPTING = "prompting"  # the concept is asked for in words

LABELS = {
    SAE_FEATURE: "SAE feature",
    RANDOM_DIRECTION: "random direction, equal norm",
    RANDOM_FEATURE: "random feature, equal norm",
    UNSTEERED: "unsteered",
    PROMPTING: "prompting",
}
