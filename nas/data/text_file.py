"""The text of a file, whatever wrote it: its encoding, its line ends, its marks."""

import codecs
import re
from pathlib import Path

from search_spaces.errors import BadData

_MARKS = (  # the longer ones first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHERS = {  # how files that hold texts in another form begin
    b"PAR1": "Parquet", b"ARROW1": "Arrow", b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstandard",
    b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"%PDF-": "PDF", b"SQLite format 3\0": "SQLite",
}  # fmt: skip
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, or of a UTF-16 or UTF-32 one that begins with a byte-order mark; lines end at `\\n`.

    Raises:
        BadData: no ordinary file, no right to read it, another form, another encoding, or NUL bytes.
    """
    content = read_bytes(path)
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        _refuse_other_form(path, content)
        wrong = f"byte 0x{content[error.start]:02X} at {error.start}"
        raise BadData(
            f"data {path} is no {encoding.removesuffix('-sig').upper()} text ({wrong}); convert it, for example: "
            "iconv -f LATIN1 -t UTF-8"
        ) from None
    if "\0" in text:
        _refuse_other_form(path, content)
        raise BadData(
            f"data {path} holds NUL bytes (the first at {text.index(chr(0))}), so it is no text, or UTF-16 without a "
            "byte-order mark; convert it to UTF-8"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _refuse_other_form(path: Path, content: bytes) -> None:
    """Name the form of what is no text, where it is known."""
    form = next((form for mark, form in _OTHERS.items() if content.startswith(mark)), None)
    if form is not None:
        raise BadData(f"data {path} is a {form} file; unpack or convert it to .jsonl, .csv or .txt")


def read_bytes(path: Path) -> bytes:
    """The bytes of an ordinary file.

    Raises:
        BadData: it is none, or may not be read.
    """
    try:
        if not path.is_file():  # a pipe or a device would never end
            raise BadData(f"data {path} is no ordinary file; give one")
        return path.read_bytes()
    except OSError as error:
        raise BadData(f"data {path} cannot be read ({error.strerror or error}); give a file that can") from None


def is_folder(path: Path) -> bool:
    """Whether it is a folder; False where nothing is.

    Raises:
        BadData: nothing can be there, such as under a name that is too long.
    """
    try:
        return path.is_dir()
    except OSError as error:
        raise BadData(f"data {path} cannot be read ({error.strerror or error}); give a file or a folder") from None


def replace_lone_surrogates(text: str) -> str:
    """The text with U+FFFD in place of halves of characters, which JSON can hold and no encoding can write."""
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def is_hidden(path: Path, root: Path) -> bool:
    """Whether a file in the folder `root` is nobody's data: hidden, or what macOS writes beside files (`._name`)."""
    parts = path.relative_to(root).parts
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)
