"""What is known of a generated world's items reaches the dataset, item by item."""

import pytest

from tests.tools import ring_dataset
from trialign.config.data import StorefrontConfig
from trialign.data.dataset import Dataset
from trialign.data.prepare import prepare
from trialign.storefront import Storefront

SHOP = StorefrontConfig(
    seed=3, num_items=60, num_users=20, block_records=16, shard_blocks=2, images_per_shard=50, buckets=1
)


class Backwards(Storefront):
    """Hands the truth over in another order than the items."""

    def load(self, folder):
        raw = super().load(folder)
        truth = raw.truth.take(list(range(raw.truth.num_rows))[::-1])
        return type(raw)(**vars(raw) | {"truth": truth})


@pytest.mark.parametrize("source", [Storefront, Backwards])
def test_the_truth_stands_at_the_items_it_is_of(tmp_path, source):
    shop = source(SHOP)
    prepare(shop, tmp_path, SHOP)
    dataset = Dataset(tmp_path)
    truth, items = dataset.truth(), dataset.items.to_pylist()
    assert set(truth) == {"category", "style", "purpose"}
    assert [category is not None for category in truth["category"]] == [bool(item["categories"]) for item in items]
    for category, item in zip(truth["category"], items, strict=True):
        assert category is None or item["categories"][-1] == category
    assert [style is not None for style in truth["style"]] == [item["has_image"] for item in items]
    names = [name for name, _ in shop.world.purposes]
    assert truth["purpose"] == [names[purpose] for purpose in shop.attributes().purpose_N]


def test_of_a_real_catalogue_nothing_is_known(tmp_path):
    assert ring_dataset(tmp_path).truth() == {}
