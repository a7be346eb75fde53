"""What a newcomer's catalogue, pictures and ready examples hold: foreign text, quotes, odd keys, lists."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.doors.door import PREPARE, READ, SHOP, Door, Run, repaired, replaced, settings, walk

EVENTS, ITEMS = SHOP["events.csv"], SHOP["items.csv"]
FOREIGN = [
    "[/red]",
    "\x1b[31mred",
    "\u202eabc",
    "salt &amp; pepper",
    "<p>soft</p>",
    "[pack of 2]",
    "<|sid_0_1|>",
    "[/w adapter]",
]
TITLES = "item,title\n" + "".join(f"i{item},{title}\n" for item, title in enumerate(FOREIGN))
ODD_KEYS = {"i1": "1_000", "i2": "1000", "i3": "007", "i4": "7", "i5": "null", "i6": "<|end|>"}
QUOTED = ['"7 Inch Nails" Live', '"Heroes', 'Low"', "d", "e", "f", "g", "h"]
EXAMPLES = (
    "prepare data=examples data.root=. data.train=train.csv data.validation=valid.csv data.test=test.csv "
    "data.items=items.csv run=r"
)
LISTS = {
    "train.csv": "".join(f"u{user},\"['i0', 'i1', 'i2']\",i{user % 8}\n" for user in range(10)),
    "valid.csv": "u1,\"['i3', 'i4']\",i5\n",
    "test.csv": "u1,\"['i3', 'i4']\",i5\n",
}
SPLITS = {name: f"user_id,item_id_list,item_id\n{rows}" for name, rows in LISTS.items()} | {"items.csv": ITEMS}


def _odd(text: str) -> str:
    for key, odd in ODD_KEYS.items():
        text = text.replace(f"{key},", f"{odd},")
    return text


def _picture(path: Path) -> None:
    Image.new("RGB", (8, 8), "teal").save(path)


def _renamed(command: str, _: str) -> str:
    Path("photos/IMG_1.png").rename("photos/i1.png")
    return command


DOORS = [
    Door(
        "keys that would steer a terminal",
        PREPARE,
        SHOP | {"items.csv": ITEMS + "\u202e[/red]\x1b[31m,a\n\u202e[/red]\x1b[31m,b\n"},
        value=r"1 item keys are in the catalogue more than once, e.g. \u202e[/red]\x1b[31m",
        rule="one row per item",
        remedy="remove the duplicates",
        follow=repaired("items.csv", lambda text: text.replace("\u202e[/red]\x1b[31m,b\n", "")),
        outcome="items 9, items_without_description 9, users 12, events 48",
        absent="\x1b",
    ),
    Door(
        "titles of brackets, controls and tags",
        PREPARE,
        SHOP | {"items.csv": TITLES},
        code=0,
        value="2 of 8 items have HTML in their texts, e.g. i3, i4; it is kept as text, data.read_html=true reads it",
        outcome=READ,
    ),
    Door(
        "keys that look like numbers, nothing and marks",
        PREPARE,
        {name: _odd(text) for name, text in SHOP.items()},
        code=0,
        value=READ,
    ),
    Door(
        "quotes that are text",
        PREPARE.replace("items.csv", "items.tsv"),
        SHOP | {"items.tsv": "item\ttitle\n" + "".join(f"i{item}\t{title}\n" for item, title in enumerate(QUOTED))},
        value="items.tsv cannot be read: ",
        rule="a file is whole, UTF-8",
        remedy="where quotes are text, set data.quotes=false; else fix the line",
        follow=settings(),
        outcome=READ,
    ),
    Door(
        "a sheet",
        PREPARE.replace("items.csv", "items.xlsx"),
        SHOP | {"items.xlsx": b"PK\x03\x04"},
        value="items.xlsx ends in .xlsx, which is not read",
        rule="a file's ending tells its format: .csv,",
        remedy="save its sheet as CSV in UTF-8, and name that",
        follow=replaced("items.xlsx", "items.csv"),
        outcome=READ,
    ),
    Door(
        "captions in a column of another name",
        f"{PREPARE} data.captions=captions.csv",
        SHOP | {"captions.csv": "item,text\ni0,A cup\n"},
        value="captions.csv has no column 'caption'",
        rule="data.item_columns.caption names a column of the file",
        remedy="known: item, text",
        follow=lambda command, _: f"{command} data.item_columns.caption=text",
        outcome=READ,
    ),
    Door(
        "histories spelled as lists",
        EXAMPLES,
        SPLITS,
        code=0,
        value="items 8, items_without_description 8, users 10",
    ),
    Door(
        "histories of another separator",
        EXAMPLES,
        {name: text.replace("\"['", "").replace("', '", "|").replace("']\"", "") for name, text in SPLITS.items()},
        value="2 items of the examples are not in the catalogue, e.g. i0|i1|i2, i3|i4; they are in 12 places of",
        rule="at least one item of the histories is in the catalogue",
        remedy="check that examples and catalogue use the same item keys, and data.item_separator",
        follow=lambda command, _: f"{command} 'data.item_separator=\"|\"'",
        outcome="items 8, items_without_description 8, users 10",
    ),
    Door(
        "ready examples of items that the catalogue lacks",
        EXAMPLES,
        SPLITS | {"items.csv": ITEMS.replace("i1,Title 1\n", "")},
        value="1 items of the examples are not in the catalogue, e.g. i1; they are in 10 places of histories",
        rule="every example's items are in the catalogue",
        remedy="add the items, or lose these places: data.missing_items=drop",
        follow=settings(r"lose these places: (\S+)"),
        outcome="dropped, of 34 places of histories",
    ),
    Door(
        "pictures called as the camera did",
        f"{PREPARE} data.images=photos",
        SHOP | {"photos/IMG_1.png": _picture},
        value="none of 1 pictures belongs to an item, e.g. IMG_1.png; looked for i0, i1, i2",
        rule="a picture is called as its item's key or image",
        remedy="rename them, name data.item_columns.image, or set data.images=null",
        follow=_renamed,
        outcome="images 1",
    ),
    Door(
        "a picture that is none",
        f"{PREPARE} data.images=photos",
        SHOP | {"photos/i1.jpg": b"IMGabc", "photos/i2.png": _picture},
        value="1 pictures cannot be used: item 'i1': it begins with b'IMGabc'",
        rule="pictures are whole files of JPEG, PNG, GIF, WebP or BMP",
        remedy="or set data.broken_images=drop; an item without a picture is legal",
        follow=settings(),
        outcome="images 1",
    ),
    Door(
        "pictures in a packed folder",
        f"{PREPARE} data.images=photos.zip",
        SHOP | {"photos.zip": b"PK\x03\x04", "photos/i1.png": _picture},
        value="data.images names photos.zip",
        rule="pictures come from folders and from uncompressed .tar files",
        remedy="unpack it, or pack it again with `tar cf`",
        follow=replaced("photos.zip", "photos"),
        outcome="images 1",
    ),
    Door(
        "vectors of a catalogue of keys alone",
        "embed run=r",
        SHOP | {"items.csv": "".join(f"{line.partition(',')[0]}\n" for line in ITEMS.splitlines())},
        before=(PREPARE,),
        value="none of 8 items has a text or a picture",
        rule="every modality that is embedded describes at least one item",
        remedy="set embed/text=none embed/image=none embed/collaborative=ppmi",
        follow=settings(r"set (.*)"),
        outcome="embed: built",
    ),
]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_a_mistake_in_texts_and_pictures_is_said_and_what_is_said_helps(door: Door, run: Run) -> None:
    walk(door, run)
