"""Train `digits-vit`: an 8-block ViT on scikit-learn's handwritten digits, on a CPU in a few minutes.

    python train.py --out /tmp/digits-vit

The 8 x 8 images are enlarged to 32 x 32 (bilinear), so that patches of 4 give 64 tokens and the class token.
Training sees shifted and turned copies; calibration, validation and test images are never trained on.
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn.functional import affine_grid, cross_entropy, grid_sample
from transformers import ViTConfig, ViTForImageClassification

SIZE = 32
SHARES = {"calibration": 0.1, "validation": 0.1, "test": 0.2}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result."""

    hidden: int = 96
    layers: int = 8
    heads: int = 4
    intermediate: int = 192
    patch: int = 4
    epochs: int = 75
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    turn: float = 12.0  # degrees at most
    shift: float = 0.12  # of the image at most
    stretch: float = 0.12
    seed: int = 0


def enlarge(images: np.ndarray) -> np.ndarray:
    """(n, 8, 8) in 0..16 to uint8 (n, 32, 32)."""
    scaled = (images * 255 / 16).round().astype(np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for image in scaled]
    )


def load_splits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Disjoint stratified splits by name: (pixels uint8, labels)."""
    digits = load_digits()
    rest, labels = enlarge(digits.images), digits.target
    splits, left = {}, 1.0
    for name, share in SHARES.items():
        rest, part, labels, part_labels = train_test_split(
            rest, labels, test_size=share / left, stratify=labels, random_state=0
        )
        splits[name], left = (part, part_labels), left - share
    return {"train": (rest, labels), **splits}


def convert_to_input(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (n, h, w) to float (n, 1, h, w) with mean and deviation 0.5."""
    return ((torch.from_numpy(pixels).float() / 255 - 0.5) / 0.5)[:, None]


def distort(images: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> torch.Tensor:
    """Turn, shift and stretch each image a little; the outside is background."""

    def draw_uniform(maximum: float) -> torch.Tensor:
        return (torch.rand(len(images), generator=generator) * 2 - 1) * maximum

    angle, scale = draw_uniform(math.radians(recipe.turn)), 1 + draw_uniform(recipe.stretch)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = torch.stack(
        [cosine, -sine, draw_uniform(2 * recipe.shift), sine, cosine, draw_uniform(2 * recipe.shift)], dim=1
    )
    grid = affine_grid(rows.reshape(-1, 2, 3), list(images.shape), align_corners=False)
    return grid_sample(images + 1, grid, align_corners=False) - 1


def describe_processor() -> dict[str, object]:
    """`preprocessor_config.json`: what `convert_to_input` does, for AutoImageProcessor."""
    size, half = {"height": SIZE, "width": SIZE}, [0.5]
    scaling = {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": half,
        "image_std": half,
    }
    return {"image_processor_type": "ViTImageProcessor", "do_resize": True, "size": size, "resample": 2, **scaling}


def build(recipe: Recipe) -> ViTForImageClassification:
    torch.manual_seed(recipe.seed)
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=recipe.hidden,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            intermediate_size=recipe.intermediate,
            image_size=SIZE,
            patch_size=recipe.patch,
            num_channels=1,
            num_labels=10,
        )
    )


@torch.no_grad()
def measure_accuracy(model: ViTForImageClassification, pixels: np.ndarray, labels: np.ndarray) -> float:
    model.eval()
    chosen = model(pixel_values=convert_to_input(pixels)).logits.argmax(-1)
    model.train()
    return float((chosen == torch.from_numpy(labels)).float().mean())


def train(model: ViTForImageClassification, pixels: np.ndarray, labels: np.ndarray, recipe: Recipe) -> None:
    images, wanted = convert_to_input(pixels), torch.from_numpy(labels)
    generator = torch.Generator().manual_seed(recipe.seed)
    steps = recipe.epochs * (len(images) // recipe.batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps, pct_start=0.15)
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(images) - recipe.batch + 1, recipe.batch):
            chosen = order[start : start + recipe.batch]
            logits = model(pixel_values=distort(images[chosen], recipe, generator)).logits
            loss = cross_entropy(logits, wanted[chosen], label_smoothing=0.05)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
        print(f"epoch {epoch + 1}/{recipe.epochs} loss {loss.item():.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and its data")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    recipe, data = Recipe(seed=arguments.seed), load_splits()
    model = build(recipe)
    print(f"{model.num_parameters() / 1e6:.2f} M parameters, {len(data['train'][0])} training images", flush=True)
    train(model, *data["train"], recipe)
    figures = {name: measure_accuracy(model, *data[name]) for name in ("validation", "test")}
    model.save_pretrained(arguments.out)
    (arguments.out / "preprocessor_config.json").write_text(json.dumps(describe_processor(), indent=2) + "\n")
    (arguments.out / "data").mkdir(exist_ok=True)
    for name in SHARES:
        np.savez_compressed(arguments.out / "data" / f"{name}.npz", pixels=data[name][0], labels=data[name][1])
    record = {"recipe": asdict(recipe), "accuracy": figures}
    (arguments.out / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
