"""Readers of texts, links and files, fed with whatever: they give what they are for, or a GligenError.

The same examples each time, and few of them; `python3 dev.py fuzz --minutes N` looks for others.
"""

import json
import os

import pytest
from files import random_text_box_tensors, save_authors, save_pruned, scaled
from gligen_pack.gligen_ops.entities import PhraseBox, Pose
from gligen_pack.gligen_ops.errors import GligenError
from gligen_pack.gligen_ops.files.checkpoint import build_gligen, read_gligen
from gligen_pack.gligen_ops.model import Block
from gligen_pack.nodes.layouts import regions
from gligen_pack.nodes.layouts.boxes import gather_frames
from gligen_pack.nodes.layouts.poses import poses
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SEARCHING = "GLIGEN_FUZZ" in os.environ
fuzzed = settings(
    max_examples=2000 if SEARCHING else 150,
    derandomize=not SEARCHING,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
NUMBERS = st.one_of(
    st.integers(),
    st.integers(0, 600),
    st.floats(),
    st.floats(0, 1),
    st.just(10**400),
    st.booleans(),
)
LEAVES = st.one_of(st.none(), NUMBERS, st.text(max_size=20))
KEYS = st.one_of(
    st.sampled_from(
        "phrase label desc text x y width height box bbox boxes metadata people canvas_width canvas_height "
        "pose_keypoints_2d canvas_to_orig_x cropped_to_canvas_x".split()
    ),
    st.text(max_size=5),
)
VALUES = st.recursive(
    LEAVES,
    lambda inside: st.one_of(
        st.lists(inside, max_size=4), st.dictionaries(KEYS, inside, max_size=5),
        st.lists(inside, min_size=17, max_size=18), st.tuples(inside, inside),
    ),
    max_leaves=40,
)  # fmt: skip
ROWS = st.lists(st.lists(NUMBERS, min_size=2, max_size=3), min_size=17, max_size=25)
PEOPLE = st.lists(
    st.one_of(ROWS, st.fixed_dictionaries({"pose_keypoints_2d": ROWS}), VALUES), max_size=3
)
LINES = st.lists(
    st.one_of(
        st.text(max_size=40),
        st.builds("{}: {}, {}, {}, {}".format, st.text(max_size=8), *[NUMBERS] * 4),
    ),
    max_size=5,
).map("\n".join)


def outcome(read, *given_):
    """What it gives, or None where it refuses in the pack's own words."""
    try:
        return read(*given_)
    except GligenError as error:
        assert str(error) and len(str(error)) < 20_000
        return None


def in_picture(box) -> bool:
    return 0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1


@fuzzed
@given(st.one_of(LINES, VALUES.map(lambda value: json.dumps(value, default=str)), st.text()))
def test_texts_of_boxes(text):
    for frame in outcome(gather_frames, text) or []:
        assert all(
            isinstance(box, PhraseBox) and box.phrase and in_picture(box.box) for box in frame
        )


@fuzzed
@given(st.text(max_size=20), VALUES, st.integers(-2, 5000), st.integers(-2, 5000))
def test_links_of_boxes(text, link, width, height):
    for frame in outcome(gather_frames, text, link, width, height) or []:
        assert all(in_picture(box.box) for box in frame)


@fuzzed
@given(st.one_of(VALUES, PEOPLE, st.fixed_dictionaries({"people": PEOPLE})), st.floats(0, 1))
def test_poses(value, confidence):
    found = [outcome(poses, value, "", confidence)] if value is not None else []
    found.append(outcome(poses, None, json.dumps(value, default=str), confidence))
    for frames in found:
        for pose in (pose for frame in frames or [] for pose in frame):
            assert isinstance(pose, Pose) and ((pose.points >= 0) & (pose.points <= 1)).all()


@fuzzed
@given(VALUES)
def test_links_of_regions(value):
    outcome(regions.of_segs, value)
    outcome(regions.of_stitcher, value)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Bytes of a GLIGEN in three formats, and a place to write others."""
    folder = tmp_path_factory.mktemp("files")
    tensors = random_text_box_tensors(scaled({Block("middle", 0, 0): 1280}, 160), 8, 8)
    save_pruned(folder / "pruned.safetensors", tensors)
    save_authors(folder / "authors.bin", tensors)
    save_authors(folder / "legacy.bin", tensors, _use_new_zipfile_serialization=False)
    return folder, [(file.suffix, file.read_bytes()) for file in sorted(folder.iterdir())]


@fuzzed
@given(data=st.data())
def test_files_with_other_bytes_here_and_there(files, data):
    folder, contents = files
    suffix, content = data.draw(st.sampled_from(contents))
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        # What says how a file is read lies in its first and last few thousand bytes.
        place = data.draw(st.one_of(st.integers(0, 3000), st.integers(-3000, -1)))
        if -len(changed) <= place < len(changed):
            changed[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del changed[data.draw(st.integers(0, len(changed))) :]
    file = folder / f"changed{suffix}"
    file.write_bytes(changed)
    checkpoint = outcome(read_gligen, file)
    if checkpoint is not None:
        outcome(build_gligen, checkpoint)
