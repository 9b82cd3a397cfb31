"""A cache that holds nothing and says how many positions came before, so that transformers makes masks for them."""

from transformers import DynamicCache


class Past(DynamicCache):
    """An empty cache that says how many positions it holds: masks are made for them, nothing is stored."""

    def __init__(self, length: int):
        super().__init__()
        self.past = length

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.past

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.past

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.past + query_length, 0

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        return self.past > 0
