"""How a model is fine-tuned unless somebody says otherwise: as many tokens a step, gently, the rate constant."""


def customary(base: dict, settings: dict, window: int, steps: int) -> dict:
    """The batch, the optimizer and, at its end, the validation of a fine-tuning run, as plain settings.

    Args:
        base: plain settings of the run that trained the model from scratch; a step sees as many tokens as there.
        settings: whose `optimizer` is taken, at a quarter of its learning rate, constant, after a warmup of a tenth
            of the steps.
        window: tokens of a sequence of the fine-tuning run; steps: how many it has.
    """
    gently = {"lr": settings["optimizer"]["lr"] / 4, "schedule": "constant", "warmup": steps // 10}
    batch = max(1, base["batch"] * base["window"] // window)
    return {"batch": batch, "optimizer": settings["optimizer"] | gently, "validate_every": steps, "snapshots": []}
