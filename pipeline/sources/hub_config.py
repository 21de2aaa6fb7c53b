"""What a recipe says of a Hugging Face data set: place, map of columns, three presets."""

from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.core.recipe import Section, is_hub_id
from pipeline.core.schema import Category
from pipeline.sources.io import MAX_IMAGE_BYTES

# From the cards and scripts on the Hub (2024-2025), which could not be reached to try them: a
# column that has been renamed since ends in an error that lists the columns there are, and the
# recipe can then name it.
PRESETS: dict[str, dict[str, Any]] = {
    # One image per row; an edited image names its original. "relation" is spatial relation
    # throughout.
    "vismin": {
        "path": "mair-lab/vismin",
        "name": "vismin",
        "columns": {
            "id": "image_id",
            "original": "source_image_id",
            "image_a": "image",
            "image_b": "image",
            "caption_a": "caption",
            "caption_b": "caption",
        },
        "category_map": {"counting": "count", "relation": "position"},
        "operation": "inpaint",
        "license": "CC-BY-SA-4.0",
    },
    # The repository has a loading script, which `datasets` no longer runs: download it, unpack
    # images.zip into `images/` beside examples.jsonl, and give path: FOLDER/examples.jsonl.
    # Captions differ in one noun.
    "coco_counterfactuals": {
        "name": "coco_counterfactuals",
        "columns": {
            "image_a": "image_0",
            "image_b": "image_1",
            "caption_a": "caption_0",
            "caption_b": "caption_1",
        },
        "image_name": "images/{}.jpg",
        "category": "object",
        "operation": "generate",
        "license": "CC-BY-4.0",
    },
    # It has an edit instruction and no captions: every row is dropped as caption_a_missing until
    # columns.caption_a and columns.caption_b name captions, as in a copy of the data set with
    # captions added. Turns of one image are a group.
    "magicbrush": {
        "path": "osunlp/MagicBrush",
        "name": "magicbrush",
        "columns": {
            "id": None,
            "image_a": "source_img",
            "image_b": "target_img",
            "caption_a": None,
            "caption_b": None,
            "group": "img_id",
            "meta": ["instruction", "turn_index"],
        },
        "operation": "inpaint",
        "license": "CC-BY-4.0",
    },
}


class HubColumns(Section):
    """Which column holds what; `null` where the data set has no such column.

    `original` is for data sets with one image per row: there a row that names another row's `id` is
    side b, and the row that it names side a. `meta` names columns that are kept as they are.
    """

    id: str | None = "id"
    image_a: str = "image_a"
    image_b: str = "image_b"
    caption_a: str | None = "caption_a"
    caption_b: str | None = "caption_b"
    category: str | None = "category"
    group: str | None = "group"
    question: str | None = "question"
    operation: str | None = "operation"
    license: str | None = "license"
    original: str | None = None
    meta: tuple[str, ...] = ()

    def mapped(self) -> list[tuple[str, str]]:
        """(what it holds, column) of every column that is named."""
        named = {name: column for name, column in self if isinstance(column, str)}
        return [*named.items(), *(("meta", column) for column in self.meta)]


class HubSection(Section):
    """A data set that `datasets` reads: a Hub id, a local folder, or one local file.

    A file is JSON, CSV, Parquet or Arrow. A preset fills the fields that the recipe does not give.
    `revision` pins a commit of the Hub; without one the newest is read. Where images are file names
    in a local data set, `image_name` turns a column's text ("{}") into a path below the folder.
    `category_map` translates words; a word that is neither in it nor ours costs the row.
    """

    kind: Literal["hub"]
    path: str
    preset: Literal["vismin", "coco_counterfactuals", "magicbrush"] | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    name: str = "hub"
    columns: HubColumns = HubColumns()
    image_name: str = "{}"
    category_map: dict[str, Category] = Field(default_factory=dict)
    category: Category = "other"
    operation: str = "captured"
    license: str = ""
    max_image_bytes: int = Field(default=MAX_IMAGE_BYTES, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        preset = PRESETS.get(str(given.get("preset"))) if isinstance(given, dict) else None
        if preset is None:
            return given
        nested = {
            key: {**preset.get(key, {}), **given[key]}
            for key in ("columns", "category_map")
            if isinstance(given.get(key), dict)
        }
        return {**preset, **given, **nested}

    @property
    def is_local(self) -> bool:
        """Whether `path` lies on a disk, as `datasets` sees it."""
        return not is_hub_id(self.path, needs_org=False)

    @property
    def PATHS(self) -> tuple[str, ...]:  # noqa: N802
        """A Hub id is no path."""
        return ("path",) if self.is_local else ()
