"""What clients say of images beside their labels: text by key."""

from typing import Annotated

from pydantic import Field, StringConstraints

from handful.contract.common import Text

# Only such keys can be part of a JSON path of any database, and only such text of its JSON.
Key = Annotated[str, StringConstraints(pattern=r"^[\w.:/-]{1,100}$")]
Value = Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Metadata = Annotated[
    dict[Key, Value],
    Field(max_length=50, description="Text by key.", examples=[{"camera": "north"}]),
]
MetadataFilter = Annotated[
    dict[Key, Value | Annotated[list[Value], Field(min_length=1, max_length=100)]],
    Field(
        max_length=10,
        description="By key, the text that an image must have, or a list of which it has one.",
        examples=[{"camera": ["north", "south"]}],
    ),
]
FilenamePart = Annotated[
    Text, Field(max_length=255, description="A part of the file name, in upper or lower case.")
]
