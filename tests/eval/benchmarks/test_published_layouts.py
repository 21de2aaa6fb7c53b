"""Every benchmark from the very files that are published, to a score."""

import json
from pathlib import Path

import pytest

from eval.benchmarks.loading import read_file
from eval.benchmarks.registry import CLASSES, benchmark
from eval.parsing.harness_parsers import parser
from eval.question import Verdict
from pipeline.core.images import decode_rgb
from pipeline.core.recipe import UserError
from tests.eval.benchmarks.native_benchmarks import picture
from tests.eval.benchmarks.published_layouts import LAYOUTS, ODD


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_benchmark_is_read_and_scored_as_it_is_published(layout: str, tmp_path: Path) -> None:
    name, source, options, size = LAYOUTS[layout](tmp_path / "files")
    found = benchmark(name)
    questions = found.load(str(source), expected_size=size, **options)
    right, wrong = [], []
    for question in questions:
        truth = question.truth if isinstance(question.truth, str) else question.truth[0]
        said = {"A": "B", "B": "A", "yes": "no", "no": "yes"}.get(truth, "neither of them")
        if question.kind == "free":
            right.append(Verdict("6", "exact"))
            wrong.append(Verdict("0", "exact"))
        else:
            right.append(parser("default", name)(question, truth))
            wrong.append(parser("default", name)(question, said))
        if question.image is not None:
            decode_rgb(question.image)
    best = found.metrics(questions, right)[found.headline].value
    assert best == (6.0 if name == "mmhal" else 1.0)
    assert found.metrics(questions, wrong)[found.headline].value == 0.0
    assert len({question.item_id for question in questions}) == size


@pytest.mark.parametrize("layout", ["mmvp_repository", "cvbench_repository", "pope_llava"])
def test_the_hubs_cache_is_read_through_its_links(layout: str, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "snapshots" / "1", tmp_path / "blobs"
    name, source, options, size = LAYOUTS[layout](snapshot)
    plain = benchmark(name).load(str(source), expected_size=size, **options)
    blobs.mkdir()
    for number, file in enumerate([path for path in snapshot.rglob("*") if path.is_file()]):
        file.rename(blobs / str(number))
        file.symlink_to(blobs / str(number))
    assert benchmark(name).load(str(source), expected_size=size, **options) == plain
    # the same links anywhere else lead out
    snapshot.parent.rename(tmp_path / "kept")
    moved = tmp_path / "kept" / source.relative_to(tmp_path / "snapshots")
    with pytest.raises(UserError, match="leaves .*; expected a path inside it"):
        benchmark(name).load(str(moved), expected_size=size, **options)


def test_an_archive_that_is_cut_off_is_named_and_what_a_mac_adds_is_no_file(
    tmp_path: Path,
) -> None:
    name, source, options, size = LAYOUTS["cvbench_parquet"](tmp_path / "a")
    (source / "._test_2d.parquet").write_bytes(b"\0")
    assert benchmark(name).load(str(source), expected_size=size, **options)
    name, source, options, size = LAYOUTS["mmhal_repository"](tmp_path / "b")
    (archive,) = source.glob("*.zip")
    (source / f"._{archive.name}").write_bytes(b"\0")
    assert benchmark(name).load(str(source), expected_size=size, **options)
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"not a whole archive .*; fetch it again"):
        benchmark(name).load(str(source), expected_size=size, **options)


def test_every_benchmark_has_a_published_layout(tmp_path: Path) -> None:
    names = {LAYOUTS[layout](tmp_path / layout)[0] for layout in LAYOUTS}
    assert names == set(CLASSES)


def test_both_halves_of_cvbench_are_read_with_their_own_images(tmp_path: Path) -> None:
    for layout in ("cvbench_repository", "cvbench_two_counts", "cvbench_parquet", "cvbench_tsv"):
        name, source, _, size = LAYOUTS[layout](tmp_path / layout)
        questions = benchmark(name).load(str(source), expected_size=size)
        assert [question.meta["type"] for question in questions] == ["2D"] * 3 + ["3D"] * 2
        assert [question.image for question in questions] == [picture(idx) for idx in range(5)]
        assert all(ODD in question.prompt for question in questions)


def test_rows_of_a_tsv_that_name_an_image_of_another_row_show_it(tmp_path: Path) -> None:
    _, source, _, _ = LAYOUTS["realworldqa_tsv"](tmp_path)
    first, second = benchmark("realworldqa").load(str(source), expected_size=2)
    assert first.image == second.image and first.image.startswith(picture(0))
    assert first.prompt.startswith("Where?\n\nA. Left\nB. Right\n") and second.truth == "B"
    assert first.choices == ("Left", "Right") and second.choices == ("1", "2", "3")


def test_a_tsv_is_read_as_a_file_too_and_its_copy_without_images_is_not(tmp_path: Path) -> None:
    name, source, _, size = LAYOUTS["mmvp_tsv"](tmp_path)
    (tmp_path / "MMVP_local.tsv").write_text("index\timage_path\n0\t1.png\n")
    in_folder = benchmark(name).load(str(source), expected_size=size)
    assert benchmark(name).load(str(source / "MMVP.tsv"), expected_size=size) == in_folder
    assert [question.counterpart for question in in_folder] == ["2", "1", "4", "3"]
    assert in_folder[0].prompt.startswith('Is it "open"? (a) Open (b) Closed\n')


def test_several_images_and_torn_samples_are_named(tmp_path: Path) -> None:
    (tmp_path / "POPE.tsv").write_text("index\timage\tquestion\tanswer\n7\t['a', 'b']\tq\tYes\n")
    with pytest.raises(UserError, match=r"POPE.tsv: row 7: expected one image, got 2"):
        benchmark("pope").load(str(tmp_path))
    _, source, _, _ = LAYOUTS["naturalbench_tsv"](tmp_path)
    path = source / "NaturalBenchDataset.tsv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], *lines[2:]]))
    with pytest.raises(UserError, match="row 1: expected four rows of a sample"):
        benchmark("naturalbench").load(str(source))


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_of_json_ends_where_the_file_says(mark: str, end: str, tmp_path: Path) -> None:
    text = f"one{mark}two"
    lines = [json.dumps({"text": "-"}, ensure_ascii=False).replace("-", text)] * 2
    (tmp_path / "a.jsonl").write_bytes(("\ufeff" + end.join([*lines, ""])).encode())
    assert read_file(tmp_path / "a.jsonl") == [{"text": text}] * 2
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        row = delimiter.join(("1", f'"{text}"', text))
        table = end.join((delimiter.join("abc"), row, row, ""))
        (tmp_path / name).write_bytes(table.encode())
        assert read_file(tmp_path / name) == [{"a": "1", "b": text, "c": text}] * 2


def test_a_table_that_is_cut_off_inside_of_a_cell_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('index\timage\n1\t"abc')
    with pytest.raises(UserError, match="a.tsv: not a whole table .*damaged or cut off"):
        read_file(tmp_path / "a.tsv")


@pytest.mark.slow
@pytest.mark.parametrize("text", [" " * 200_000, "\n" * 200_000, "A. " * 60_000, "A:x;" * 50_000])
def test_no_question_holds_the_loaders_up(text: str, tmp_path: Path) -> None:
    for said in (text, f"Option: A: x{text}y", f"A. x{text}y\nB. z"):
        rows = [{"image": "0.png", "question": said, "answer": "2"}]
        (tmp_path / "annotations.json").write_text(json.dumps(rows))
        (tmp_path / "0.png").write_bytes(picture(0))
        assert len(benchmark("realworldqa").load(str(tmp_path), expected_size=1)) == 1
        sample = naturalbench_sample() | {"Question_0": said}
        (tmp_path / "naturalbench.json").write_text(json.dumps([sample]))
        assert len(benchmark("naturalbench").load(str(tmp_path), expected_size=4)) == 4
        quoted = said.replace('"', "")
        (tmp_path / "Questions.csv").write_text(
            "Index,Question,Options,Correct Answer\n"
            + "".join(f'{index},?,"(a) {quoted} (b) Closed",(a)\n' for index in (1, 2))
        )
        for index in (1, 2):
            (tmp_path / f"{index}.jpg").write_bytes(picture(index, "JPEG"))
        assert len(benchmark("mmvp").load(str(tmp_path), expected_size=2)) == 2


def naturalbench_sample() -> dict[str, object]:
    """One multiple-choice sample as a list of JSON objects has it."""
    answers = {
        f"Image_{side}_Question_{asked}": "AB"[side ^ asked] for side in (0, 1) for asked in (0, 1)
    }
    images = {"Image_0": "0.png", "Image_1": "0.png"}
    return {"Index": 0, "Question_Type": "multiple_choice", "Question_1": "?"} | answers | images
