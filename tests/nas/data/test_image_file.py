"""Images of every mode are what an eight-bit picture of the same would be, upright; broken ones are one line."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from families import build
from PIL import Image

from nas.data.dataset import MAX_TEXTS, load_dataset
from nas.data.documents import SPLITS
from nas.data.image_file import open_image
from nas.data.images import read_class_folders
from search_spaces.errors import BadData

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 255, (6, 8, 3), dtype=np.uint8)
GREY = RNG.integers(0, 255, (6, 8), dtype=np.uint8)


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png", "L")), GREY)
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png"))[..., 1], GREY)
    Image.fromarray(deep.astype(np.int32)).save(tmp_path / "a.tif")
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.tif", "L")), GREY)
    Image.fromarray(GREY.astype(np.int32)).save(tmp_path / "a.tif")  # eight bits in a wide mode
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.tif", "L")), GREY)
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(BadData, match=r"a\.tif is no readable image .mode F"):
        open_image(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "1", "L", "LA", "CMYK"])
def test_modes(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(COLOUR).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    assert np.array_equal(np.asarray(open_image(path)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("tag", "turned"), [(3, lambda x: x[::-1, ::-1]), (6, lambda x: np.rot90(x, -1)), (8, np.rot90)]
)
def test_the_camera_was_held_otherwise(tag: int, turned, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(COLOUR).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png")), turned(COLOUR))


def damaged() -> dict[str, bytes]:
    header = b"\x89PNG\r\n\x1a\n"

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    size = (6).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    huge = (60_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    return {
        "empty": b"",
        "text": b"no image",
        "cut": header + chunk(b"IHDR", size)[:-2],
        "no pixels": header + chunk(b"IHDR", size) + chunk(b"IEND", b""),
        "wrong stream": header + chunk(b"IHDR", size) + chunk(b"IDAT", b"rubbish") + chunk(b"IEND", b""),
        "bomb": header + chunk(b"IHDR", huge) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""),
    }


@pytest.mark.parametrize("kind", list(damaged()))
def test_a_broken_image_is_one_line(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(damaged()[kind])
    with pytest.raises(BadData, match=r"a\.png is no readable image") as caught:
        open_image(tmp_path / "a.png")
    assert "\n" not in str(caught.value)


def save_images(folder: Path, count: int = 40) -> None:
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = RNG.integers(0, 255, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.{'PNG' if number % 2 else 'png'}")


def test_what_systems_leave_beside_images_is_no_data(tmp_path: Path) -> None:
    save_images(tmp_path)
    model = build("vit")
    model.config.num_labels = 2
    before = read_class_folders(tmp_path, model, MAX_TEXTS)
    for name in ("cat/._1.png", ".ipynb_checkpoints/1.png", "__MACOSX/cat/1.png", "dog/.thumbs/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "cat" / "folder.png").mkdir()
    after = read_class_folders(tmp_path, model, MAX_TEXTS)
    for name in SPLITS:
        assert bool((before[name][0] == after[name][0]).all())


def test_models_of_oblong_images(tmp_path: Path) -> None:
    save_images(tmp_path)
    model = build("vit")
    model.config.num_labels, model.config.image_size = 2, [8, 12]
    assert read_class_folders(tmp_path, model, MAX_TEXTS)["test"][0].shape[1:] == (3, 8, 12)


def test_a_flipped_bit_in_arrays_is_named(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 255, (50, 12, 12), dtype=np.uint8)
    for name in SPLITS:
        np.savez_compressed(tmp_path / f"{name}.npz", pixels=pixels, labels=np.zeros(50, np.int64))
    content = bytearray((tmp_path / "test.npz").read_bytes())
    content[300] ^= 255
    (tmp_path / "test.npz").write_bytes(bytes(content))
    with pytest.raises(BadData, match=r"test\.npz must hold"):
        load_dataset(build("vit"), None, tmp_path)
