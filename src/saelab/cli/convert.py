"""`saelab convert`: an SAE of any format into another. The only verb that opens pickles, in a closed process."""

from pathlib import Path

from saelab.cli.output import say, show_record


def convert(
    source: str,
    folder: Path,
    *,
    to: str = "saelens",
    from_format: str | None = None,
    tensors: str | None = None,
    k: int | None = None,
    threshold: float | None = None,
    input_scale: float | None = None,
    normalise: str | None = None,
    transcode: bool | None = None,
    site: str | None = None,
    lm: str | None = None,
    replace: bool = False,
    json: bool = False,
) -> int:
    """Write an SAE in another format.

    Parameters
    ----------
    source:
        A folder or file, path:..., hf:org/name@revision/folder.
    folder:
        Where the new files go: a new or empty folder.
    to:
        saelens, dictionary_learning, sparsify or gemma_scope.
    from_format:
        Format of the source, where two could fit.
    tensors:
        Which of plain tensors is which: W_enc=enc.weight.T,W_dec=dec.weight.T,b_enc=enc.bias,..., or a YAML file.
    k:
        Active latents per token, where the files do not say.
    threshold:
        One threshold for all latents, where the files hold none.
    input_scale:
        What activations were multiplied by before training, where the files do not say.
    normalise:
        How it normalises every token (layer_norm, constant_norm_rescale, centred), where the files do not say.
    transcode:
        It is a transcoder: it rebuilds the output of its site's module from the input, where the files do not say.
    site:
        Where the SAE reads (resid_post.12), where the files do not say.
    lm:
        Its language model, where the files do not say.
    replace:
        Give up the files that the folder holds; what they were is printed.
    json:
        Print what was written as one JSON object.
    """
    from saelab.saes.formats import convert_sae
    from saelab.store.files import contents

    declared = {"k": k, "threshold": threshold, "input_scale": input_scale, "normalise": normalise}
    declared |= {"transcode": transcode, "site": site, "lm": lm, "tensors": tensors}
    held = contents(folder) if replace else []
    sae = convert_sae(source, folder, to=to, format=from_format, replace=replace, **declared)
    if json:
        record = {"folder": str(folder), "format": to, "replaced": held, **sae.cfg.model_dump(exclude={"metadata"})}
        show_record(record, as_json=True)
    else:
        what = getattr(sae.cfg, "architecture", "transcoder")
        say(f"{folder}: {to}, {what}, {sae.cfg.d_in} by {sae.cfg.d_sae}.")
        if held:
            say(f"Replaced: {', '.join(held)}.")
        say(f"Check it: saelab inspect {folder}" + (f" --lm {sae.cfg.lm}" if sae.cfg.lm else " --lm NAME"))
    return 0
