import io
import json
from dataclasses import asdict
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.audit.image_traces import FEATURES, pixel_traces, shortcut_features
from pipeline.audit.shortcuts import (
    AuditSection,
    audit,
    audit_features,
    audit_sources,
    features_of,
    sample_for_audit,
)
from pipeline.config import NormalizeSection
from pipeline.core.images import ImageError
from pipeline.core.schema import sha256_hex
from pipeline.report.audit import audit_html
from pipeline.stages.normalize import normalize_bytes

KEEP, REENCODE = NormalizeSection(), NormalizeSection(mode="reencode")


def encoded(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data):
    return Image.open(io.BytesIO(data)).convert("RGB")


def photograph(seed, size=128):
    """What a photograph looks like to the audit: a spectrum that falls with frequency, sharp
    shapes, noise, and dull colours.
    """
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1
    field = np.fft.irfft2(
        np.fft.rfft2(rng.normal(size=(size, size))) / frequency ** rng.uniform(1, 1.4)
    )
    field = 128 + rng.uniform(25, 55) * (field - field.mean()) / field.std()
    image = Image.fromarray(
        (field[..., None] + rng.uniform(-30, 30, 3)).clip(0, 255).astype(np.uint8)
    )
    for _ in range(rng.integers(1, 6)):
        x, y, w, h = rng.integers(0, size, 2).tolist() + rng.integers(10, size // 2, 2).tolist()
        ImageDraw.Draw(image).ellipse(
            (x, y, x + w, y + h), fill=tuple(rng.integers(0, 256, 3).tolist())
        )
    # in brightness: cameras smooth that in colour away
    noise = rng.normal(scale=rng.uniform(1, 5), size=(size, size, 1))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


@cache
def photographs():
    return [photograph(seed) for seed in range(40)]


def crops(folder):
    """Photographs of things, shrunk so that the traces of their own compression are gone."""
    paths = sorted((folder / "objects" / "images").glob("*/*.jpg"))[::4]
    return [
        Image.open(path)
        .convert("RGB")
        .resize((330, 330), Image.Resampling.LANCZOS)
        .crop((60, 60, 260, 240))
        for path in paths
    ]


def resaved(originals, quality):
    """Pairs of a photograph and its mirror image, saved once more."""
    side_a = [encoded(image, quality=92) for image in originals]
    return side_a, [
        encoded(decoded(data).transpose(Image.Transpose.FLIP_LEFT_RIGHT), quality=quality)
        for data in side_a
    ]


def audited(side_a, side_b, normalize=KEEP):
    features = [
        np.array([shortcut_features(normalize_bytes(data, normalize)) for data in side])
        for side in (side_a, side_b)
    ]
    everyone = np.arange(len(side_a))
    names = np.full(len(side_a), "edits", dtype=object)
    (result,) = audit_sources(names, names, everyone, everyone, *features, AuditSection())
    return result


def blank(num_rows):
    return np.zeros((num_rows, len(FEATURES)))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["synthetic", "real"])
def test_a_side_resaved_at_quality_75_is_caught_and_cured(where, request):
    originals = (
        photographs() if where == "synthetic" else crops(request.getfixturevalue("test_data"))
    )
    sides = resaved(originals, 75)
    caught = audited(*sides)
    assert caught.verdict == "warning"
    assert caught.separability.auc > 0.95
    assert "jpeg_luma_step" in {clue.feature for clue in caught.separability.clues}
    cured = audited(*sides, REENCODE)
    assert cured.verdict == "ok"
    assert cured.separability.auc_low <= 0.5


@pytest.mark.slow
def test_quality_alone_does_not_hide_what_was_resaved():
    once_more = NormalizeSection(mode="reencode", scale=1.0, format="jpeg", quality=95)
    assert audited(*resaved(photographs(), 75), once_more).verdict == "warning"


@pytest.mark.slow
def test_a_png_against_a_jpeg_is_caught_by_its_format_and_cured():
    side_a, side_b = (
        [encoded(image, quality=92) for image in photographs()],
        [encoded(image, "PNG") for image in photographs()],
    )
    caught = audited(side_a, side_b)
    assert caught.separability.auc == 1.0
    assert {"is_jpeg", "is_png"} <= {clue.feature for clue in caught.separability.clues}
    assert audited(side_a, side_b, REENCODE).verdict == "ok"


@pytest.mark.slow
def test_a_pair_that_is_repeated_in_its_group_counts_once():
    rng = np.random.default_rng(1)
    features_a, features_b = rng.normal(size=(2, 24, len(FEATURES)))
    features_b[:, 0] += 1
    once = audit(features_a, features_b, np.arange(24), seed=0)
    rows = np.r_[np.arange(24), np.zeros(50, int)]
    assert audit(features_a[rows], features_b[rows], rows, seed=0) == once


@pytest.mark.slow
def test_what_is_known_of_other_pairs_of_a_group_does_not_help():
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(40), 6)
    features_a, features_b = blank(240), blank(240)
    side = rng.choice([-1, 1], 40)[groups]
    features_a[:, 0] = features_b[:, 0] = rng.normal(size=40)[groups]
    features_a[:, 1], features_b[:, 1] = (
        -side + rng.normal(scale=0.1, size=240),
        side + rng.normal(scale=0.1, size=240),
    )
    # as if every pair were its own group
    assert audit(features_a, features_b, np.arange(240), seed=0).auc > 0.8
    assert audit(features_a, features_b, groups, seed=0).auc < 0.6


@pytest.mark.slow
def test_each_source_and_operation_has_its_own_verdict_and_equal_features_are_at_chance():
    sources = np.array(["x"] * 60 + ["y"] * 39, dtype=object)
    operations = np.array(
        ["inpaint"] * 20 + ["flip"] * 20 + ["captured"] * 20 + ["inpaint"] * 19 + ["flip"] * 20,
        dtype=object,
    )
    groups = np.r_[np.arange(79), np.repeat(np.arange(100, 109), 3)[:20]]
    rng = np.random.default_rng(4)
    sample = sample_for_audit(np.arange(99), sources, operations, np.ones(99, bool), AuditSection())
    features_a = rng.normal(size=(99, len(FEATURES)))
    features_b = features_a.copy()
    features_b[:20, FEATURES.index("noise")] += 10
    results = audit_sources(
        sources, operations, groups, sample, features_a[sample], features_b[sample], AuditSection()
    )
    assert [
        (one.source, one.operation, one.num_pairs, one.num_audited, one.verdict) for one in results
    ] == [
        ("x", "captured", 20, 0, "not_applicable"),
        ("x", "flip", 20, 20, "ok"),
        ("x", "inpaint", 20, 20, "warning"),
        ("y", "flip", 20, 20, "too_few"),  # nine groups
        ("y", "inpaint", 19, 19, "too_few"),
    ]
    flip = results[1].separability
    # no group differs; Wilson's bound on those that might
    assert (
        flip.auc == 0.5 and flip.auc_low == pytest.approx(1 - flip.auc_high) and flip.auc_low < 0.5
    )
    assert results[2].separability.clues[0].feature == "noise"
    written = json.loads(json.dumps([asdict(result) for result in results]))
    assert written[2]["separability"]["clues"][0] == {"feature": "noise", "auc": 1.0}
    page = audit_html(written)
    assert page.count("WARNING") == 1
    assert "noise higher in b (1.00)" in page


def test_at_most_so_many_pairs_of_each_are_drawn_by_their_ids_and_not_by_their_order():
    ids = np.array([f"{number:032x}" for number in range(300)], dtype="S32")
    sources = np.array(["x"] * 150 + ["y"] * 150, dtype=object)
    operations = np.array((["flip"] * 100 + ["render"] * 50) * 2, dtype=object)
    stays = np.arange(300) % 10 > 0
    section = AuditSection(max_pairs=40)
    drawn = sample_for_audit(ids, sources, operations, stays, section)
    assert stays[drawn].all()
    assert [((sources[drawn] == name) & (operations[drawn] == "flip")).sum() for name in "xy"] == [
        40,
        40,
    ]
    assert len(drawn) == 80
    turned = sample_for_audit(ids[::-1], sources[::-1], operations[::-1], stays[::-1], section)
    assert set(ids[::-1][turned]) == set(ids[drawn])
    other = sample_for_audit(ids, sources, operations, stays, AuditSection(max_pairs=40, seed=1))
    assert set(other) != set(drawn)


def test_nothing_to_audit_is_no_error():
    nobody, no_rows = np.array([], dtype=object), np.zeros(0, bool)
    sample = sample_for_audit(np.array([], dtype="S32"), nobody, nobody, no_rows, AuditSection())
    features = features_of(audit_features({}, []), [])
    assert features.shape == (0, len(FEATURES))
    assert audit_sources(nobody, nobody, nobody, sample, features, features, AuditSection()) == []


def test_features_are_found_again_by_content_id():
    files = [encoded(photograph(1)), encoded(photograph(2), "PNG")]
    images = {sha256_hex(data): data for data in files}
    found = features_of(
        audit_features(images, sorted(images)), [sha256_hex(data) for data in files]
    )
    np.testing.assert_array_equal(found, [shortcut_features(data) for data in files])


def test_container_features_say_how_the_file_was_written():
    image = photograph(0).crop((0, 0, 120, 60))
    files = [
        encoded(image, quality=50, subsampling="4:2:0"),
        encoded(image, quality=100, subsampling="4:4:4"),
        encoded(image.convert("L"), quality=50),
        encoded(image, "PNG"),
        encoded(image, "WEBP"),
    ]
    columns = dict(
        zip(FEATURES, np.array([shortcut_features(data) for data in files]).T, strict=True)
    )
    assert columns["is_jpeg"].tolist() == [1, 1, 1, 0, 0]
    assert columns["is_png"].tolist() == [0, 0, 0, 1, 0]
    assert columns["is_webp"].tolist() == [0, 0, 0, 0, 1]
    # Quality 50 is the table of the JPEG standard's Annex K, whose 64 luma steps sum to 3,688; at
    # 100 every step is 1.
    assert columns["jpeg_luma_step"].tolist() == [3688 / 64, 1, 3688 / 64, 0, 0]
    assert columns["jpeg_chroma_step"][1] == 1
    assert columns["jpeg_subsampling"].tolist() == [2, 0, 0, 0, 0]
    assert columns["num_bytes"].tolist() == [len(data) for data in files]
    assert columns["bytes_per_pixel"].tolist() == [len(data) / 7200 for data in files]
    assert (columns["width_px"][0], columns["height_px"][0], columns["aspect"][0]) == (120, 60, 2)


def test_a_smooth_ramp_has_neither_noise_nor_edges_nor_blocks():
    rows, columns = np.mgrid[0:64, 0:64].astype(np.float32)
    assert pixel_traces(2 * rows + columns) == (0.0, 0.0, 0.0)


def test_flat_blocks_are_seen_wherever_the_picture_is_cut():
    levels = np.random.default_rng(5).integers(0, 256, (125, 125), dtype=np.uint8)
    picture = Image.fromarray(levels).resize((1000, 1000), Image.Resampling.NEAREST)
    assert shortcut_features(encoded(picture, "PNG"))[FEATURES.index("blockiness")] == 1.0


def test_white_noise_is_measured_and_blur_lowers_noise_and_sharpness():
    rng = np.random.default_rng(6)
    gray = rng.normal(128, 5, (256, 256)).astype(np.float32)
    noise, sharpness, blockiness = pixel_traces(gray)
    # A diagonal difference of four independent pixels has standard deviation 2 * 5, and a normal's
    # mean size is 0.798 of it.
    assert noise == pytest.approx(2 * 5 * np.sqrt(2 / np.pi), rel=0.02)
    # The Laplacian adds 4 pixels and subtracts 4 times the middle: variance (4 + 16) * 25.
    assert sharpness == pytest.approx(np.log(501), rel=0.01)
    assert abs(blockiness) < 0.02
    blurred = (gray[:-1, :-1] + gray[1:, 1:]) / 2
    assert pixel_traces(blurred)[0] < noise
    assert pixel_traces(blurred)[1] < sharpness


def test_the_smallest_picture_has_features():
    assert np.isfinite(shortcut_features(encoded(Image.new("RGB", (1, 1)), "PNG"))).all()


def test_an_unusable_image_is_named():
    with pytest.raises(ImageError, match="not_an_image"):
        shortcut_features(b"no image")
