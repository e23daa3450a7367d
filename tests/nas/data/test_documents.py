"""Files as the world writes them are read as the same texts, or refused in one line."""

import codecs
import gzip
import json
import os
from pathlib import Path

import pytest

from nas.data.documents import Document, read_documents
from nas.data.splitting import split_documents
from nas.data.text_file import read_text
from search_spaces.errors import BadData

TEXTS = ["ein Stück Text", "zweite Zeile", "日本語 three"]
LINES = "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS)


def texts_of(path: Path) -> list[str]:
    return [document.text for document in read_documents(path)]


def refused(path: Path, says: str) -> None:
    with pytest.raises(BadData, match=says) as caught:
        read_documents(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_with_a_mark_and_all_line_ends(mark: bytes, encoding: str, end: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(mark + LINES.replace("\n", end).encode(encoding))
    assert texts_of(tmp_path / "a.jsonl") == TEXTS
    (tmp_path / "a.txt").write_bytes(mark + (end + end).join(TEXTS).encode(encoding))
    assert texts_of(tmp_path / "a.txt") == TEXTS


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (LINES.encode("latin-1", "replace"), "no UTF-8 text .byte 0xFC at 16.; convert it"),
        (LINES.encode("utf-16-le"), "NUL bytes|no UTF-8"),
        (b'{"text": "a"}\x00\n', "NUL bytes .the first at 13"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "no UTF-8 text"),
        (b"PAR1\x15\x04\x15\x00\x00", "is a Parquet file; unpack or convert it"),
        (b"PK\x03\x04\x14\0", "is a zip file"),
        (gzip.compress(b"a text", mtime=0), "is a gzip file"),
        (b"", "holds no text"),
        (b"\xef\xbb\xbf", "holds no text"),
        (b"\xff\xfea", "no UTF-16 text"),
    ],
)
def test_what_is_no_text_is_named(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    refused(tmp_path / "a.jsonl", says)


def test_half_characters_become_the_replacement_character(tmp_path: Path) -> None:
    lines = ['{"text": "a\\ud800b \\ud83d\\ude00", "project": "p\\udfff"}', '{"text": "c"}', '{"text": "d"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert read_documents(tmp_path / "a.jsonl")[0] == Document("a\ufffdb \U0001f600", "p\ufffd")
    assert sum(map(len, split_documents(read_documents(tmp_path / "a.jsonl")).values())) == 3


@pytest.mark.parametrize(
    "content",
    [
        LINES,
        json.dumps([{"text": text} for text in TEXTS]),
        json.dumps([{"text": text} for text in TEXTS], indent=2),
        json.dumps(TEXTS),
        "\ufeff" + json.dumps(TEXTS),
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.JSON", "a.jsonl"])
def test_json_in_lines_and_in_arrays(content: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert texts_of(tmp_path / name) == TEXTS


def test_a_single_object_over_several_lines(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"text": "alone"}, indent=2))
    assert texts_of(tmp_path / "a.json") == ["alone"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"content": "a", "id": 1}', "line 1: .* this has 'content', 'id'"),
        ('{"text": null}', "line 1: .* this has the text null"),
        ("{}", "line 1: .* this has nothing"),
        ("7", "line 1: .* this is '7'"),
        ('[{"text": "a"}, 7]', "item 2"),
        ("[" * 100_000, "is an object such as"),
        ('{"text": "a", "n": ' + "1" * 5000 + "}", "line 1|item"),
    ],
)
def test_wrong_records_are_named(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    refused(tmp_path / "a.jsonl", says)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_with_a_column_of_texts(delimiter: str, tmp_path: Path) -> None:
    rows = [["id", "Text", "project"], ["1", '"one\n\nand, two; three"', "p"], ["2", "x" * 200_000, ""]]
    (tmp_path / "a.csv").write_text("\ufeff" + "\n".join(delimiter.join(row) for row in rows) + "\n\n")
    assert read_documents(tmp_path / "a.csv") == [Document("one\n\nand, two; three", "p"), Document("x" * 200_000)]


def test_a_table_without_texts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,body\n1,hello\n")
    refused(tmp_path / "a.csv", "no column named text .its first line is 'id,body'")
    (tmp_path / "a.csv").write_text("id,text\n1\n")
    refused(tmp_path / "a.csv", "line 2")


def test_folders_hold_what_is_no_data(tmp_path: Path) -> None:
    for name in ("p1/a.TXT", "p1/deep/er/b.Md", "c.JSONL"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"text": "c"}' if name.endswith("L") else name)
    for name in ("._a.txt", "p1/._b.jsonl", ".git/x.txt", "__MACOSX/p1/a.txt", ".DS_Store", "p1/.hidden.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07\xff")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    assert [(d.text, d.project) for d in read_documents(tmp_path)] == [
        ("c", None), ("p1/a.TXT", "p1"), ("p1/deep/er/b.Md", "p1"),
    ]  # fmt: skip
    hidden = tmp_path / ".hidden"
    hidden.mkdir()
    (hidden / "a.txt").write_text("asked for by name")
    assert texts_of(hidden) == ["asked for by name"]


def test_json_and_tables_in_a_folder_are_data_where_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "info.json").write_text('{"name": "corpus"}')
    (tmp_path / "a.txt").write_text("one")
    assert texts_of(tmp_path) == ["one"]
    (tmp_path / "a.txt").unlink()
    (tmp_path / "info.json").write_text('["two"]')
    (tmp_path / "b.CSV").write_text("text\nthree\n")
    assert texts_of(tmp_path) == ["three", "two"]


def test_what_is_no_ordinary_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    refused(tmp_path / "pipe.txt", "no ordinary file")
    refused(tmp_path / ("x" * 5000), "cannot be read")
    refused(Path("/dev/zero"), "no ordinary file")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.txt").write_text("x")
    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(BadData, match=r"cannot be read .Permission denied."):
        read_text(tmp_path / "a.txt")


def test_texts_without_letters_are_not_copies_of_each_other() -> None:
    signs = ["!!! ???", "--- ---", "☃☃ ☀", "... ,,,", "§§§ %%", "+ - *"]
    splits = split_documents([Document(text) for text in [*signs, *signs]])
    assert sorted(document.text for members in splits.values() for document in members) == sorted(signs)
