"""Texts that go on like others: whose words stand where, and what stays as it was."""

import torch

from nas.data.dataset import Split
from nas.healing.mixed_copies import add_mixed_copies, can_mix

FIRST, LAST, PAD = 1, 2, 0
LENGTHS = (9, 5, 7, 2, 3)


def make_split() -> Split:
    """Text n has the words 10 * n + place, between a first and a last token."""
    ids = torch.full((len(LENGTHS), 10), PAD)
    mask = torch.zeros_like(ids)
    for text, length in enumerate(LENGTHS):
        ids[text, :length] = torch.arange(length) + 10 * (text + 1)
        ids[text, 0], ids[text, length - 1] = FIRST, LAST
        mask[text, :length] = 1
    return Split("calibration", {"input_ids": ids, "attention_mask": mask})


def test_a_copy_begins_like_its_text_and_goes_on_with_words_of_one_other() -> None:
    split, copies = make_split(), 20
    mixed = add_mixed_copies(split, copies, seed=0)
    assert len(mixed) == (copies + 1) * len(split)
    assert torch.equal(mixed.inputs["attention_mask"], split.inputs["attention_mask"].repeat(copies + 1, 1))
    assert torch.equal(mixed.inputs["input_ids"][: len(split)], split.inputs["input_ids"])
    others = 0
    for place, row in enumerate(mixed.inputs["input_ids"]):
        text = place % len(split)
        length, words = LENGTHS[text], row[1 : LENGTHS[text] - 1].tolist()
        assert row[0] == FIRST
        assert row[length - 1] == LAST
        assert (row[length:] == PAD).all()
        assert [word % 10 for word in words] == list(range(1, length - 1)), "each at its place in the text it is from"
        sources = [word // 10 - 1 for word in words]
        exchanged = [source for source in sources if source != text]
        assert len(set(exchanged)) <= 1
        if exchanged:
            first = sources.index(exchanged[0])
            end = min(length, LENGTHS[exchanged[0]]) - 2
            assert sources == [text] * first + exchanged[:1] * (end - first) + [text] * (len(words) - end)
        others += bool(exchanged)
    assert others > copies


def test_the_seed_decides() -> None:
    split = make_split()
    one, again, other = (add_mixed_copies(split, 5, seed).inputs["input_ids"] for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_what_is_padded_in_front_or_has_no_words_is_not_mixed() -> None:
    split = make_split()
    assert can_mix(split)
    front = {name: tensor.flip(1) for name, tensor in split.inputs.items()}
    assert not can_mix(Split("calibration", front))
    pixels = {"pixel_values": torch.zeros(len(LENGTHS), 3, 4, 4)}
    assert not can_mix(Split("calibration", pixels))
    assert not can_mix(Split("calibration", {**split.inputs, **pixels}))
