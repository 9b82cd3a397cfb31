"""What this machine does natively. torch is imported when asked, so that `stats` and `report` run without it."""


def multiplies_bfloat16(device: str = "cpu") -> bool:
    """Whether matrix products in bfloat16 run in hardware; elsewhere they are emulated, several times slower."""
    import torch

    if torch.device(device).type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported())
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
