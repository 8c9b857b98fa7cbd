"""Reading boxes from text and links."""

import json

import pytest
from gligen_pack.gligen_ops.entities import PhraseBox
from gligen_pack.gligen_ops.errors import GligenError
from gligen_pack.gligen_ops.places import Box
from gligen_pack.nodes.layouts.boxes import check_boxes, gather_frames


def gather_boxes(*args):
    return gather_frames(*args)[0]


boxes_from_text = gather_boxes


def boxes_from_link(*link):
    return gather_boxes("", *link)


CAT = PhraseBox("a cat", Box.from_size(0.1, 0.2, 0.3, 0.4))
DOG = PhraseBox("a dog", Box.from_size(0.5, 0.5, 0.25, 0.5))


def read(boxes: list[PhraseBox]) -> list[tuple]:
    return [
        (b.phrase, *(round(v, 6) for v in (b.box.x0, b.box.y0, b.box.x1, b.box.y1))) for b in boxes
    ]


def message_of(call, *arguments) -> str:
    with pytest.raises(GligenError) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.mark.parametrize("text", ["", "  \n\n", "# only a note\n", "[]", '{"boxes": []}'])
def test_text_without_boxes(text):
    assert boxes_from_text(text) == []


@pytest.mark.parametrize(
    "numbers",
    ["0.1, 0.2, 0.3, 0.4", ".1 .2 .3 .4", "0.1,0.2,0.3,0.4,", "[1e-1, 0.2,  .3 0.4]"],
)
def test_numbers_of_a_line(numbers):
    assert boxes_from_text(f"a cat:{numbers}") == [CAT]


def test_lines():
    text = "# what goes where\n\na cat: 0.1 0.2 0.3 0.4\r\n  a dog : 0.5, 0.5, 0.25, 0.5  \n"
    assert boxes_from_text(text) == [CAT, DOG]


def test_the_last_colon_separates():
    (box,) = boxes_from_text("(a cat:1.2), ears: up: 0.1, 0.2, 0.3, 0.4")
    assert box == PhraseBox("(a cat:1.2), ears: up", CAT.box)


def test_every_bad_line_is_named():
    text = "\n".join(
        [
            "a cat: 0.1, 0.2, 0.3, 0.4",
            "a dog: 0.1, 0.2, 0.3",
            "a bird 0.1 0.2 0.3 0.4",
            "",
            "a fish: 0.1, 0.2, O.3, 0.4",
            "a snake",
            ": 0.1, 0.2, 0.3, 0.4",
            "a cow: 64, 64, 128, 128",
            "a bee: 0.1, 0.2, 0, 0.4",
        ]
    )
    message = message_of(boxes_from_text, text)
    assert "input text" in message and "for example" in message
    assert "Line 1" not in message and "Line 4" not in message
    for part in [
        'Line 2 ("a dog: 0.1, 0.2, 0.3"): it has 3 numbers',
        'Line 3 ("a bird 0.1 0.2 0.3 0.4"): a colon is missing',
        'Line 5 ("a fish: 0.1, 0.2, O.3, 0.4"): not a number: O.3',
        'Line 6 ("a snake"): it has no box',
        'Line 7 (": 0.1, 0.2, 0.3, 0.4"): its phrase is empty',
        'Line 8 ("a cow: 64, 64, 128, 128"): it reaches from',
        'Line 9 ("a bee: 0.1, 0.2, 0, 0.4"): its width and height must be above 0',
    ]:
        assert part in message


@pytest.mark.parametrize(
    "numbers, told",
    [
        ("5%, 10%, 35%, 35%", "not a number: 5%, 10%, 35%, 35%"),
        ("0.1; 0.1; 0.3; 0.3", "not a number: 0.1;, 0.1;, 0.3;"),
        ("x=0.1 y=0.1 w=0.3 h=0.3", "not a number: x=0.1, y=0.1"),
        (
            "0,1, 0,1, 0,3, 0,3",
            "it has 8 numbers after its last colon, expected 4. Write 0.1, not 0,1",
        ),
        ("5, 10, 35, 35", "outside of the image"),
    ],
)
def test_boxes_in_another_notation_are_told_with_the_right_one(numbers, told):
    message = message_of(boxes_from_text, f"a cat: {numbers}")
    assert told in message and "5% is 0.05; pixels divided by" in message


@pytest.mark.parametrize(
    "text", ["a cat: 0.1, 0.1, 0.5, 0.5", "a cat: [0.1 0.1 0.5 0.5]", "a cat: 10%; 10%; 50%; 50%"]
)
def test_a_line_of_many_boxes_is_no_phrase_of_one(text):
    message = message_of(check_boxes, [PhraseBox(text, CAT.box)])
    assert "ends in numbers" in message and "GLIGEN Text Boxes" in message


@pytest.mark.parametrize("text", ["a poster: 16:9", "a clock: 12", "route 66", "a: b, c, d, e"])
def test_a_phrase_may_have_numbers(text):
    assert check_boxes([PhraseBox(text, CAT.box)]) == [PhraseBox(text, CAT.box)]


@pytest.mark.parametrize("key", ["phrase", "text", "label", "desc"])
def test_json(key):
    sizes = {"x": 0.1, "y": 0.2, "width": 0.3, "height": 0.4}
    items = [{key: "a cat", **sizes}, {key: "a dog", "box": [0.5, 0.5, 0.25, 0.5]}]
    assert boxes_from_text(json.dumps(items, indent=1)) == [CAT, DOG]
    assert boxes_from_text(json.dumps({"boxes": items})) == [CAT, DOG]
    assert boxes_from_text(json.dumps(items[0])) == [CAT]


def test_json_that_does_not_parse():
    message = message_of(boxes_from_text, '[\n {"phrase": "a cat",}\n]')
    assert "line 2, column" in message and "JSON" in message


def test_every_bad_object_is_named():
    items = [
        {"phrase": "a cat", "x": 0.1, "y": 0.2},
        {"phrase": "a dog", "box": [0.5, 0.5, 0.25]},
        "a bird",
        {"box": [0.5, 0.5, 0.25, 0.5]},
        {"phrase": "a cow", "box": [0.9, 0.5, 0.25, 0.5]},
        {"phrase": "a bee", "box": [0, 0, "wide", 0.5]},
    ]
    message = message_of(boxes_from_text, json.dumps(items))
    for part in [
        "Box 1 (a cat): width, height missing",
        "Box 2 (a dog): x, y, width and height must be four numbers",
        "Box 3: expected an object",
        "Box 4: its phrase is empty",
        "Box 5 (a cow): it reaches",
        "Box 6 (a bee)",
    ]:
        assert part in message
    assert "must be a list" in message_of(boxes_from_text, '{"boxes": 3}')


DETECTED = {"x": 20.0, "y": 20.0, "width": 60.0, "height": 40.0, "label": "a cat", "score": 0.9}
EDITED = {
    "x": 100,
    "y": 50,
    "width": 50,
    "height": 50,
    "metadata": {"type": "obj", "desc": "a dog"},
}
BARE = {"x": 100, "y": 50, "width": 50, "height": 50}


@pytest.mark.parametrize(
    "link", [[[DETECTED, EDITED]], [DETECTED, EDITED], [[DETECTED, EDITED], []]]
)
def test_linked_boxes(link):
    assert read(boxes_from_link(link, 200, 100)) == read([CAT, DOG])


def test_a_bare_linked_box():
    assert read(boxes_from_link(DETECTED, 200, 100)) == read([CAT])


@pytest.mark.parametrize("link", [None, [], [[]], [[], [DETECTED]]])
def test_a_link_without_boxes(link):
    assert boxes_from_link(link, 200, 100) == []


def test_linked_elements():
    elements = [
        {"type": "obj", "bbox": [200, 100, 600, 400], "desc": "a cat"},
        {"type": "text", "bbox": [1000, 750, 500, 500], "text": "a dog", "desc": ""},
    ]
    assert read(boxes_from_link(elements, 1, 1)) == read([CAT, DOG])


def test_a_linked_box_that_sticks_out_a_bit_is_cut():
    link = [{"x": -4, "y": -2, "width": 208, "height": 60, "label": "a cat"}]
    assert read(boxes_from_link(link, 200, 100)) == [("a cat", 0, 0, 1, 0.58)]


def test_every_bad_linked_box_is_named():
    link = [
        {"x": 0, "y": 0, "width": 1024, "height": 512, "label": "a cat"},
        {"x": 0, "y": 0, "width": 10},
        "a bird",
        {"x": 10, "y": 10, "width": 0, "height": 10, "label": "a dog"},
        {"x": 0, "y": float("nan"), "width": 10, "height": 10},
        DETECTED,
    ]
    message = message_of(boxes_from_link, link, 512, 512)
    for part in [
        "input boxes",
        "Box 1 (a cat): it reaches from (0, 0) to (1024, 512), but the image is 512 by 512",
        "Box 2: expected the numbers",
        "Box 3: expected a bounding box",
        "Box 4 (a dog): its width and height must be above 0",
        "Box 5: expected the numbers",
        "set them to the size of the picture",
    ]:
        assert part in message
    assert "Box 6" not in message
    assert "Expected bounding boxes" in message_of(boxes_from_link, 7, 512, 512)
    assert "no room" in message_of(boxes_from_link, [DETECTED], 0, 512)


def test_the_text_names_linked_boxes_that_have_no_phrase():
    link = [[BARE, DETECTED, BARE]]
    text = "a dog\na star: 0, 0, 1, 1\na view at 16:9\n"
    phrases = [box.phrase for box in gather_boxes(text, link, 200, 100)]
    assert phrases == ["a dog", "a cat", "a view at 16:9", "a star"]


def test_linked_boxes_that_stay_without_a_phrase():
    message = message_of(gather_boxes, "a dog", [BARE, BARE, DETECTED, BARE], 200, 100)
    assert "Box 2: it has no phrase" in message and "Box 4: it has no phrase" in message
    assert "Box 1" not in message and "Type their phrases in text" in message


def test_phrases_for_which_no_linked_box_is_left():
    message = message_of(gather_boxes, "a dog\na bird", [BARE], 200, 100)
    assert 'Line 2 ("a bird")' in message and "Line 1" not in message


def test_both_inputs_report_in_one_message():
    message = message_of(gather_boxes, "a dog: 1 2 3", [{"x": 1}], 200, 100)
    assert "Line 1" in message and "Box 1" in message


def test_a_detectors_boxes_stay_with_their_images_and_typed_ones_are_in_all():
    frames = gather_frames("a dog: 0.5 0.5 0.25 0.5", [[DETECTED], [], [EDITED]], 200, 100)
    assert [read(boxes) for boxes in frames] == [read([CAT, DOG]), read([DOG]), read([DOG, DOG])]


def test_bad_boxes_of_several_images_are_told_with_their_image():
    message = message_of(gather_frames, "", [[{"x": 1}], [DETECTED], ["a bird"]], 200, 100)
    assert "Image 1 of the batch" in message and "Image 3 of the batch" in message
    assert "Image 2" not in message


def test_phrases_may_be_left_over_in_images_with_fewer_boxes():
    frames = gather_frames("a dog\na bird", [[BARE, BARE], [BARE]], 200, 100)
    assert [[b.phrase for b in boxes] for boxes in frames] == [["a dog", "a bird"], ["a dog"]]
