"""The bodies of requests and answers, as OpenAPI describes them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr


class RecommendRequest(BaseModel):
    """For whom items are recommended: somebody who chose `items`, or a `user` of the logs."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"items": ["item-0000007", "item-0000100"], "k": 5}]}
    )

    items: list[StrictStr] | None = Field(None, description="keys of the items that were chosen, oldest first")
    user: StrictStr | None = Field(None, description="key of a user of the logs, where users are known")
    k: StrictInt = Field(10, ge=1, description="how many items; at most serve.num_beams")
    exclude_seen: StrictBool = Field(True, description="leave out items that were chosen before")
    allowed: list[StrictStr] | StrictStr | None = Field(
        None, description="recommend none but these: keys, or the name of a stock list of the service"
    )
    blocked: list[StrictStr] | StrictStr | None = Field(
        None, description="recommend none of these: keys, or the name of a stock list of the service"
    )


class Item(BaseModel):
    """An item of the catalogue."""

    item: str = Field(description="its key")
    title: str = Field(description='"" where it has none')
    sid: list[int] = Field(description="its semantic ID, the coarsest code first")


class RecommendedItem(Item):
    """An item that is recommended."""

    rank: int = Field(description="1 is the best")
    score: float = Field(description="log-probability, a natural logarithm")


class Recommendation(BaseModel):
    """The recommended items, best first."""

    items: list[RecommendedItem]
    history: list[str] = Field(description="keys of the items that were chosen, oldest first")
    unknown: list[str] = Field(description="keys of the request that the catalogue lacks")
    bundle: str = Field(description="digest of the bundle or run that answered")
    fewer: str | None = Field(description="why there are fewer than k items; null where there are not")


class Items(BaseModel):
    """Items of the catalogue, in its order."""

    items: list[Item]


class Status(BaseModel):
    """Whether the service lives, or is ready."""

    status: str
    bundle: str = Field(description="digest of the bundle or run that answers")


class Reloaded(BaseModel):
    """What answers after a reload or a rollback."""

    bundle: str = Field(description="digest of the bundle or run that answers now")
    changed: bool = Field(description="false where what is there is what answered already")


class ErrorDetail(BaseModel):
    """What is wrong with a request."""

    value: str = Field(description="what was sent")
    rule: str = Field(description="what should have been sent")
    remedy: str = Field(description="what to send instead")


class Error(BaseModel):
    """An answer that refuses."""

    error: ErrorDetail
