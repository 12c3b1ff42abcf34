"""With batch norm, does chapter 1's network end at the same accuracy each time?

The page shows few seeds. Here are more of them, with the page's settings.
`make study NAME=norm_seeds` runs them and goes on where it was stopped.
"""

import torch
from course_utils import (
    choose_scale,
    fit,
    load_data,
    networks,
    records,
    save_record,
)

study = "studies/ladder/01_norm_seeds"
factors = {"norm": ["batch-norm"]}
seeds = range(9)


def train_one(seed, norm, scale="page"):
    settings = choose_scale(
        scale,
        {  # source, page, smoke: as in the chapter
            "data": ("imagenette", "imagenette", "shapes"),
            "image_size": (128, 128, 32),
            "epochs": (5, 5, 3),
            "batch_size": (128, 128, 128),
            "learning_rate": (0.05, 0.05, 0.05),
            "precision": ("auto", "auto", "float32"),
            "norm": (norm, norm, norm),
        },
    )
    train, val = load_data(settings.data, settings.image_size)
    torch.manual_seed(seed)
    model = networks.plain_cnn()
    history = fit(
        model,
        train,
        val,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        precision=settings.precision,
        seed=seed,
        checkpoint=records.checkpoint_path(norm, seed, study, scale),
    )
    label = "plain CNN, batch norm"
    save_record(study, norm, label, model, train, val, history, settings, seed)


if __name__ == "__main__":  # by itself, as on Colab
    for seed in seeds:
        train_one(seed, *factors["norm"])
