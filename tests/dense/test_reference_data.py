import pytest
import torch

from ommatid.data.worlds.duos import DuoWorld
from ommatid.dense.data import InMemory, Views
from ommatid.dense.reference_data import ReferenceData, few_of_each, outlining, shown_categories
from ommatid.errors import InputError

WORLD = {"categories": 4, "unlabelled": 6, "val": 3, "test": 4, "source": 5}


def small(**settings):
    return ReferenceData(**{"size": 32, "shots": 2, "batch_size": 4, "labelled_batch": 3, "world": WORLD, **settings})


@pytest.fixture(scope="module")
def data():
    return small()


def test_the_pool_shows_every_category_as_often_as_asked(data):
    assert set(data.by_category) == {1, 2, 3, 4}
    for category, numbers in data.by_category.items():
        assert len(numbers) >= 2
        for number in numbers:
            assert (data.pictures["train"].label_map(number) == category).any()
    assert max(data.pool) < 8, "only labelled pictures"


def test_few_images_are_chosen_that_add_something():
    assert few_of_each([(1, 2), (1,), (1, 3), (3,), (2,)], shots=2, categories=3) == [0, 1, 2, 3, 4]
    assert few_of_each([(1, 2), (1, 2), (1, 2)], shots=1, categories=2) == [0]


def test_every_image_is_asked_for_what_it_shows_and_for_one_thing_that_it_does_not(data):
    queries = data.dataset("test").queries
    for number in range(4):
        asked = [query.category for query in queries if query.image == number]
        shown = data.shown["test"][number]
        assert asked[:2] == list(shown)
        assert len(asked) == 3
        assert asked[2] not in shown


def test_masks_are_of_the_category_asked_for_and_references_show_it(data):
    queries = data.dataset("test")
    batch = data.collate([queries[place] for place in range(len(queries))])
    for row, query in enumerate(queries.queries):
        classes = data.pictures["test"].label_map(query.image)
        assert torch.equal(batch.masks[row, 0] > 0, classes == query.category)
        assert batch.present[row] == (query.category in data.shown["test"][query.image])
        reference = data.pictures["train"].label_map(query.references[0])
        assert torch.equal(batch.reference_masks[row, 0, 0] > 0, reference == query.category)
        assert batch.reference_masks[row].any()


@pytest.mark.parametrize("augment", ["none", "turns", "scale-crop"])
def test_references_of_training_always_outline_something(augment):
    torch.manual_seed(0)
    data = small(augment=augment)
    found = [sample for _ in range(4) for sample in data.streams()["labelled"]]
    assert all(sample.reference_masks.flatten(1).any(dim=1).all() for sample in found)


def test_a_reference_whose_crops_all_miss_its_object_is_taken_whole(data):
    class Missing(Views):
        def of(self, number):
            image, classes = super().of(number)
            return image, torch.zeros_like(classes)

    number, pictures = data.pool[0], data.pictures["train"]
    category = data.shown["train"][number][0]
    image, outline = outlining(Missing(pictures, 32), number, category)
    assert torch.equal(image, pictures.pixels(number))
    assert torch.equal(outline[0] > 0, pictures.label_map(number) == category)


def test_objects_smaller_than_a_pixel_are_still_outlined():
    """Of a map that is shrunk to a sixteenth, every seventh pixel of eight is lost."""
    maps = torch.zeros(1, 64, 64, dtype=torch.uint8)
    maps[0, 8:10, 9:11] = 1
    pictures = InMemory(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), maps, ("thing",))
    _, outline = outlining(Views(pictures, 4), 0, 1)
    assert outline.shape == (1, 4, 4)
    assert outline.sum() == pytest.approx(4 / 256)
    assert outline[0, 0, 0] > 0


def test_a_split_that_shows_nothing_known_is_refused(tmp_path):
    data = small()
    maps = data.pictures["test"].maps.clone()
    maps[maps > 0] = 9
    data.pictures["test"] = InMemory(data.pictures["test"].images, maps, data.pictures["test"].class_names)
    with pytest.raises(InputError, match="found no image of a known category in test, expected at least 1"):
        data.dataset("test")


def test_a_control_is_told_nothing_of_what_is_asked_for():
    data = small(told=False)
    queries = data.dataset("test").queries
    assert [(query.image, query.category) for query in queries] == [
        (query.image, query.category) for query in small().dataset("test").queries
    ]
    assert any(query.of != query.category for query in queries)
    for query in queries:
        assert set(query.references) <= set(data.by_category[query.of])
    torch.manual_seed(0)
    drawn = [data.drawn_query(data.pool[0], 0.0) for _ in range(30)]
    assert {query.of for query in drawn} == set(data.by_category)
    assert {query.category for query in drawn} <= set(data.shown["train"][data.pool[0]])


def test_queries_are_the_same_every_time(data):
    assert data.dataset("test").queries == small().dataset("test").queries
    assert data.dataset("val").queries == small().dataset("val").queries


def test_a_test_can_be_asked_several_times_with_several_references():
    queries = small(draws=3, reference_shots=2).dataset("test").queries
    assert {query.draw for query in queries} == {0, 1, 2}
    assert {len(query.references) for query in queries} == {2}
    first, second = ([q.references for q in queries if q.draw == draw] for draw in (0, 1))
    assert first != second


def test_a_labelled_image_is_never_its_own_reference(data):
    for query in data.dataset("train").queries:
        assert query.image not in query.references
    torch.manual_seed(0)
    for number in data.pool:
        for _ in range(5):
            assert number not in data.drawn_query(number, 0.2).references


def test_some_labelled_queries_ask_for_what_is_not_there(data):
    torch.manual_seed(0)
    drawn = [data.drawn_query(data.pool[0], 0.5) for _ in range(200)]
    shown = data.shown["train"][data.pool[0]]
    absent = sum(query.category not in shown for query in drawn) / len(drawn)
    assert 0.4 < absent < 0.6
    assert all(data.drawn_query(data.pool[0], 0.0).category in shown for _ in range(20))


def test_a_step_holds_queries_source_and_nothing_that_nobody_knows(data):
    batch = next(iter(data.train_dataloader()))
    assert (len(batch.unlabelled), len(batch.source), len(batch.labelled)) == (4, 4, 3)
    assert not batch.unlabelled.valid.any()
    assert not batch.unlabelled.masks.any()
    assert batch.unlabelled.maps.eq(255).all()
    assert batch.unlabelled.reference_masks.flatten(1).any(dim=1).all()
    assert batch.source.masks.any()


def test_images_on_disk_whose_categories_nobody_knows_are_asked_for_anything(tmp_path):
    world = DuoWorld(**WORLD, shots=2, size=32)
    world.write(tmp_path / "made")
    data = ReferenceData(str(tmp_path / "made" / "target"), size=24, shots=2, source=str(tmp_path / "made" / "source"))
    unlabelled = [number for number, shown in enumerate(data.shown["train"]) if not shown]
    assert len(unlabelled) == 6
    torch.manual_seed(0)
    query = data.drawn_query(unlabelled[0], 0.0)
    assert query.category == 0
    assert query.of in data.by_category
    sample = data.streams()["unlabelled"][unlabelled[0]]
    assert sample.reference_masks.any()
    assert len(data.source_set) == 5
    assert data.describe()["categories"] == 4


def test_categories_of_a_map_are_read_and_void_is_none():
    world = DuoWorld(**WORLD, shots=1, size=32)

    class Few(InMemory):
        labelled = (0,)
        categories = (0, 3)

    scenes = world.split("test")
    scenes.maps[:, 0, 0] = 255
    shown = shown_categories(Few(scenes.images[:2], scenes.maps[:2], scenes.class_names))
    assert len(shown[0]) == 2
    assert 255 not in shown[0]
    assert shown[1] == (3,)


def test_baselines_answer_without_looking(data):
    found = data.baselines("test")
    assert found["all background"]["category_IoU"] == 0
    assert found["every object"]["category_IoU"] < 1
    assert found["every object"]["swap"] < 1
    assert found["all foreground"]["false_area"] == 1


def test_a_trained_method_gets_images_of_its_size():
    data = small()
    data.use(24)
    assert data.dataset("test")[0].image.shape == (3, 24, 24)
    assert data.source_set[0][0].shape == (3, 24, 24)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"shots": 0}, "shots must be at least 1, found 0"),
        ({"draws": 0}, "draws must be at least 1, found 0"),
        ({"negatives": 1.0}, r"negatives must lie in \[0, 1\), found 1"),
        ({"root": "/nowhere"}, "/nowhere: no such folder"),
    ],
)
def test_mistakes_are_told_in_one_sentence(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        small(**settings).dataset("test")
