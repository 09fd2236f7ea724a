import random
from pathlib import Path

import pytest

from backhand import Vocabulary, load_words, read_words
from backhand.datasets import DATASETS
from backhand.errors import WordsError


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"emma\nzo\xc3\xab\nemma\n",
        b"emma\nzo\xc3\xab\nemma",
        b"emma\r\nzo\xc3\xab\r\nemma\r\n",
        b"\xef\xbb\xbfemma\nzo\xc3\xab\nemma\n",
        b"\n  emma \n\n\tzo\xc3\xab\n \nemma\n\n",
    ],
    ids=["plain", "no last line end", "CRLF", "byte-order mark", "blank lines and spaces"],
)
def test_a_text_file_gives_its_words_in_order_with_duplicates(tmp_path: Path, content: bytes) -> None:
    assert read_words(write(tmp_path / "words.txt", content)) == ["emma", "zoë", "emma"]


def test_a_csv_column_is_read_by_its_name(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.csv", b'\xef\xbb\xbfid,town\r\n1,"Bonillo, El"\r\n2,\r\n3,Elx\r\n4,"two\nlines"\r\n'
    )
    assert read_words(path, column="town") == ["Bonillo, El", "Elx", "two\nlines"]
    assert read_words(path, column="id") == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("step", "word", "expected"),
    [
        ("first", "Elx/Elche", "Elx"),
        ("first", "Elx", "Elx"),
        ("swap", "Ballestero, El", "El Ballestero"),
        ("swap", "Orxa, l'", "l'Orxa"),
        ("swap", "Camp de Mirra", "Camp de Mirra"),
        ("ascii", "Peñíscola", "Peniscola"),
        ("ascii", "Straße", "Strasse"),
        ("lower", "ÁVILA", "ávila"),
        ("strip", "Noáin (Valle de Elorz)", "Noáin Valle de Elorz"),
        ("strip", "«L'Alfàs» [x]", "LAlfàs x"),
        ("dots", "St. Ives", "St Ives"),
        ("nfc", "Zoe\u0308", "Zoë"),
        ("ascii", "Пример", "Primer"),
    ],
)
def test_each_cleaning_step_does_what_its_name_says(
    tmp_path: Path, step: str, word: str, expected: str
) -> None:
    assert read_words(write(tmp_path / "w.txt", word.encode()), clean=[step]) == [expected]


def test_cleaning_steps_are_applied_in_the_order_given(tmp_path: Path) -> None:
    path = write(tmp_path / "w.txt", b"Orxa, l'/Lorcha")
    assert read_words(path, clean=["first", "swap"]) == ["l'Orxa"]
    assert read_words(path, clean=["swap", "first"]) == ["l'"]


def test_without_cleaning_words_stay_as_they_are(tmp_path: Path) -> None:
    assert read_words(write(tmp_path / "w.txt", "Élan, L'/(x)".encode())) == ["Élan, L'/(x)"]


@pytest.mark.parametrize(
    ("content", "column", "message"),
    [
        (b"", None, "holds no words"),
        (b"\n \r\n", None, "holds no words"),
        (b"emma\0olivia", None, "binary"),
        (b"emma\nava\nzo\xeb\n", None, "line 3: byte 0xeb is not UTF-8"),
        (b"\xef\xbb\xbfemma\n\xff\n", None, "line 2: byte 0xff is not UTF-8"),
        (b"emma\nst. ives\n", None, "line 2: 'st. ives' holds '.'"),
        (b"id,town\n1,Elx\n", "city", "no column 'city'; its columns are: 'id', 'town'"),
        (b"id,town\n1,Elx\n2,St. Ives\n", "town", "line 3: 'St. Ives' holds '.'"),
        (b'id,town\n1,"Elx"x\n', "town", "not valid CSV"),
    ],
)
def test_a_bad_file_is_refused_with_the_place(
    tmp_path: Path, content: bytes, column: str | None, message: str
) -> None:
    path = write(tmp_path / "words.txt", content)
    with pytest.raises(WordsError) as error:
        read_words(path, column=column)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_of_a_table_is_recognised(tmp_path: Path, delimiter: str) -> None:
    rows = [["id", "town", "county"], ["1", "Elx", "Alacant"], ["2", "Ávila", "Ávila"]]
    path = write(tmp_path / "t.csv", "\n".join(delimiter.join(row) for row in rows).encode())
    assert read_words(path, column="town") == ["Elx", "Ávila"]
    with pytest.raises(WordsError, match="is a table; choose one with --column: 'id', 'town', 'county'"):
        read_words(path)


def test_a_list_whose_words_hold_commas_is_no_table(tmp_path: Path) -> None:
    path = write(tmp_path / "w.txt", b"Ballestero, El\nBonillo, El\nOrxa, l'\n")
    assert read_words(path, clean=["swap"]) == ["El Ballestero", "El Bonillo", "l'Orxa"]
    assert read_words(write(tmp_path / "v.txt", b"a,b\nc\nd,e\n")) == ["a,b", "c", "d,e"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"town,town\nElx,Alacant\n", "has 2 columns 'town'; give them different names"),
        (b"town,county\nElx,Alacant,Spain\n", "line 2: 3 fields, and 2 in the first line"),
        ("town\nElx\n".encode("utf-16"), "is UTF-16; save the file as UTF-8"),
    ],
)
def test_a_table_that_is_not_clear_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(WordsError, match=message):
        read_words(write(tmp_path / "t.csv", content), column="town")


def test_any_bytes_are_words_or_one_line(tmp_path: Path) -> None:
    draw = random.Random(0)
    alphabets = [bytes(range(256)), b'ab,;|"\n\r\t .', "aé\u0301👨\u200d👩\n\u2028,\x1b".encode()]
    for _ in range(500):
        alphabet = draw.choice(alphabets)
        content = bytes(draw.choice(alphabet) for _ in range(draw.randint(0, 60)))
        path = write(tmp_path / "w", content)
        for column in (None, "a", ""):
            try:
                words = read_words(path, column=column)
            except WordsError as error:
                told = str(error)
                assert told.isprintable(), content
            else:
                assert words
                Vocabulary.of(words).encode_all(words)


def test_a_missing_file_a_folder_and_an_unknown_step_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WordsError, match=r"there is no file .*nothing\.txt"):
        read_words(tmp_path / "nothing.txt")
    with pytest.raises(WordsError, match="directory"):
        read_words(tmp_path)
    with pytest.raises(WordsError, match="'upper'; choose from first, swap, ascii, lower, strip, dots, nfc"):
        read_words(tmp_path / "nothing.txt", clean=["upper"])


def test_the_embedded_names_are_whole() -> None:
    words = load_words("names")
    assert len(words) == 32_257
    assert words[:3] == ["emma", "olivia", "ava"]
    assert words[-1] == "zzyzx"
    assert len(set("".join(words))) == 26


def test_the_embedded_municipios_are_whole_and_clean() -> None:
    words = load_words("municipios")
    assert len(words) == 8_133
    assert set("".join(words)) == set("abcdefghijklmnopqrstuvwxyz -")
    assert {"agurain", "el ballestero", "lorxa", "noain valle de elorz", "anana"} <= set(words)


def test_the_provenance_travels_with_the_data() -> None:
    text = (DATASETS["names"].path.parent / "README.md").read_text()
    assert all(dataset.path.name in text for dataset in DATASETS.values())


def test_a_name_that_is_no_list_says_which_there_are() -> None:
    with pytest.raises(WordsError, match=r"'nmaes', nor an embedded list of that name .names, municipios."):
        load_words("nmaes")


@pytest.mark.parametrize("text", ["ana; 3\nbea; 4\n", "ana\t3\nbea\t4\n", "ana,3\nbea,4\n"])
def test_a_table_is_no_list_of_words_though_its_fields_begin_with_a_space(text: str, tmp_path: Path) -> None:
    (tmp_path / "table.txt").write_text(text)
    with pytest.raises(WordsError, match="is a table; choose one with --column"):
        read_words(tmp_path / "table.txt")
    (tmp_path / "list.txt").write_text("Bonillo, El\nOrxa, l'\n")
    assert read_words(tmp_path / "list.txt") == ["Bonillo, El", "Orxa, l'"]
