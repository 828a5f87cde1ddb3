"""Documents of every task: right targets, clean prompts, the basic mix untouched, and pools of groups."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from llada_uni.data.block_rows import Branch, Document, collate, lay_out
from llada_uni.data.code_pool import (
    CodePool,
    PoolConfig,
    TaskPool,
    TaskPoolConfig,
    encode_pictures,
    extract,
    fingerprint,
)
from llada_uni.data.scene_stream import pictures
from llada_uni.data.task_stream import TASKS, TaskWriter, tag_of
from llada_uni.data.unified_stream import MixConfig, Writer, hidden_region
from llada_uni.diffusion.masking import IMAGE_LAW, TEXT_LAW
from llada_uni.errors import CheckpointError, ConfigError
from llada_uni.grid import TokenGrid
from llada_uni.image_tokenizer.config import ImageTokenizerConfig, VisionConfig, VQConfig
from llada_uni.image_tokenizer.model import ImageTokenizer
from llada_uni.prompts import UNCONDITION
from llada_uni.scenes import is_held_out, satisfies
from llada_uni.scenes.comparisons import PictureSet
from llada_uni.scenes.edits import Edit
from llada_uni.scenes.stories import Story
from llada_uni.scenes.thinking import layout_plan
from llada_uni.testing.checkpoint import tiny_text_tokenizer
from llada_uni.training.objectives.backbone import noised

POOL = PoolConfig(num_shards=1, shard_size=40, seed=5, grids=((8, 8, 1.0),))
GROUPS = TaskPoolConfig(num_shards=4, shard_size=5, seed=6, turns=("edit", "story", "comparison", "edit"))
TEXT = tiny_text_tokenizer()
VOCAB = TEXT.vocab(text_vocab_size=TEXT.num_ids, num_codes=20)
SPECIAL = VOCAB.special
EVERYTHING = {f"{name}_share": 1 / 8 for name in TASKS}


@pytest.fixture(scope="module")
def tokenizer() -> ImageTokenizer:
    torch.manual_seed(0)
    vision = VisionConfig(hidden_size=8, intermediate_size=8, depth=1, num_heads=1, patch_size=8, image_size=64)
    shape = ImageTokenizerConfig(
        vision_config=vision, vq_config=VQConfig(num_embeddings=20, embed_dim=4, latent_channels=8)
    )
    return ImageTokenizer(shape).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pool(tokenizer: ImageTokenizer, tmp_path_factory: pytest.TempPathFactory) -> CodePool:
    directory = tmp_path_factory.mktemp("codes")
    extract(POOL, tokenizer, directory)
    return CodePool(POOL, directory, fingerprint(POOL, tokenizer))


@pytest.fixture(scope="module")
def groups(tokenizer: ImageTokenizer, tmp_path_factory: pytest.TempPathFactory) -> TaskPool:
    directory = tmp_path_factory.mktemp("groups")
    extract(GROUPS, tokenizer, directory)
    return TaskPool(GROUPS, directory, fingerprint(GROUPS, tokenizer))


def writer(**mix: float) -> TaskWriter:
    settings = {"questions": 2, "unconditional_share": 0.0, "edit_no_text_share": 0.0, "edit_no_image_share": 0.0} | mix
    return TaskWriter(writer=Writer(vocab=VOCAB, tokenizer=TEXT, mix=MixConfig(**settings)))  # pyright: ignore


def documents(made: TaskWriter, pool: CodePool, groups: TaskPool | None, count: int, seed: int = 0) -> list[Document]:
    return made.documents(np.random.default_rng(seed), pool, groups, count)


def only(task: str, pool: CodePool, groups: TaskPool, count: int = 12, **mix: float) -> list[Branch]:
    found = documents(writer(**{f"{task}_share": 1.0}, **mix), pool, groups, count)
    return [branch for document in found for branch in document.branches]


def words(ids: object) -> str:
    return TEXT.decode([int(i) for i in ids if int(i) < VOCAB.image_offset])  # pyright: ignore


def split(branch: Branch) -> list[tuple[int, ...]]:
    """The target, cut at its segments."""
    ends = np.cumsum([part.length for part in branch.parts])
    return [tuple(branch.target[end - part.length : end]) for end, part in zip(ends, branch.parts, strict=True)]


# --- the mix ---------------------------------------------------------------------------------------------------------


def test_without_shares_of_tasks_nothing_changes(pool: CodePool) -> None:
    basic = Writer(vocab=VOCAB, tokenizer=TEXT, mix=MixConfig())
    one, two = np.random.default_rng(3), np.random.default_rng(3)
    assert TaskWriter(writer=basic).documents(one, pool, None, 12) == basic.documents(two, pool, 12)
    assert one.integers(2**60) == two.integers(2**60), "the generator stands where it stood"


def test_documents_are_a_function_of_the_generator(pool: CodePool, groups: TaskPool) -> None:
    made = writer(**EVERYTHING, unconditional_share=0.3)
    assert documents(made, pool, groups, 24) == documents(made, pool, groups, 24)
    assert documents(made, pool, groups, 24) != documents(made, pool, groups, 24, seed=1)


def test_numbers_of_documents_follow_the_shares(pool: CodePool, groups: TaskPool) -> None:
    made = writer(**(EVERYTHING | {"edit_share": 0.2, "fact_share": 0.05, "riddle_share": 0.0}))
    counts: Counter[int] = Counter()
    for seed in range(20):
        found = documents(made, pool, groups, 10, seed)
        assert len(found) == 10
        tags = Counter(document.branches[0].tag for document in found)
        assert tags[tag_of("edit")] == 2
        assert tags[tag_of("fact")] in (0, 1)
        counts += tags
    assert counts[tag_of("riddle")] == 0
    assert 4 <= counts[tag_of("fact")] <= 16
    assert sum(counts[tag] for tag in counts if tag >= -1) == pytest.approx(200 * (1 - 0.125 * 4 - 0.25), abs=12)


def test_wrong_shares_and_a_missing_pool_are_one_line(pool: CodePool) -> None:
    with pytest.raises(ConfigError, match=r"at most 1 together, got edit 0\.7, story 0\.5"):
        MixConfig(edit_share=0.7, story_share=0.5)
    with pytest.raises(ConfigError, match="none below 0"):
        MixConfig(edit_share=-0.1)
    with pytest.raises(ConfigError, match="the mix asks for story documents; give the objective a task pool"):
        documents(writer(story_share=1.0), pool, None, 4)


# --- targets ---------------------------------------------------------------------------------------------------------


def test_a_thought_is_plan_header_and_codes(pool: CodePool, groups: TaskPool) -> None:
    scenes = {tuple(int(c) for c in pool[i][1].flat): pool[i][0] for i in range(len(pool))}
    for task in ("thinking", "thinking_riddle"):
        for branch in only(task, pool, groups):
            plan, picture = split(branch)
            assert [part.is_image for part in branch.parts] == [False, True]
            graph = scenes[tuple(code - VOCAB.image_offset for code in picture[:64])]
            assert words(plan[:-4]) == layout_plan(graph)
            assert satisfies(graph, words(plan[:-4]))
            assert VOCAB.header_grid(plan) is not None
            assert picture[-2:] == (SPECIAL.eoi, SPECIAL.eos)
            assert "with a thinking process" in words(branch.prompt)
            assert branch.prompt[-1] not in (SPECIAL.boi, SPECIAL.soi)


def test_a_riddle_hides_what_its_picture_shows(pool: CodePool, groups: TaskPool) -> None:
    for branch in only("riddle", pool, groups):
        assert branch.is_image
        assert VOCAB.header_grid(branch.prompt) is not None
        assert "the " in words(branch.prompt)
        assert len(branch.target) == 66
    plain = {words(b.prompt) for b in only("riddle", pool, groups, unconditional_share=1.0)}
    assert len(plain) == 1
    assert UNCONDITION in plain.pop()


def test_an_edit_shows_its_sources_and_asks_for_its_target(pool: CodePool, groups: TaskPool) -> None:
    known = edits(groups)
    for branch in only("edit", pool, groups):
        assert branch.is_image
        edit, codes = known[code_ids(branch.target)]
        assert code_ids(branch.prompt) == tuple(c for one in codes[:-1] for c in one)
        assert edit.instruction in words(branch.prompt)
        assert branch.prompt[-4:] == VOCAB.header(grid_of(branch))
        assert branch.target[-2:] == (SPECIAL.eoi, SPECIAL.eos)


def test_edits_drop_their_words_or_their_pictures(pool: CodePool, groups: TaskPool) -> None:
    known = edits(groups)
    for branch in only("edit", pool, groups, edit_no_text_share=1.0):
        edit, codes = known[code_ids(branch.target)]
        assert UNCONDITION in words(branch.prompt)
        assert edit.instruction not in words(branch.prompt)
        assert code_ids(branch.prompt) == tuple(c for one in codes[:-1] for c in one)
    said = []
    for branch in only("edit", pool, groups, count=24, edit_no_image_share=1.0):
        edit, _ = known[code_ids(branch.target)]
        assert code_ids(branch.prompt) == ()
        assert list(branch.prompt).count(SPECIAL.soi) == 2, "a lone start of image, and the header"
        said.append(edit.instruction in words(branch.prompt))
        assert said[-1] != (UNCONDITION in words(branch.prompt))
    assert 4 < sum(said) < 20


def test_a_story_is_captions_and_pictures_in_turn(pool: CodePool, groups: TaskPool) -> None:
    known = {story.prompt: story for shard in range(4) for story in GROUPS.groups(shard) if isinstance(story, Story)}
    for branch in only("story", pool, groups):
        story = next(story for prompt, story in known.items() if prompt in words(branch.prompt))
        parts = split(branch)
        assert [part.is_image for part in branch.parts] == [False, True] * len(story.frames) + [False]
        for frame, text, picture in zip(story.frames, parts[::2], parts[1::2], strict=False):
            assert words(text[:-4]) == frame.caption
            assert VOCAB.header_grid(text) is not None
            assert picture[-1] == SPECIAL.eoi
            assert len(code_ids(picture)) == len(picture) - 1
        assert parts[-1][-1] == SPECIAL.eos
        assert words(parts[-1][:-1]) == story.ending


def test_story_frames_are_trained_for_guidance(pool: CodePool, groups: TaskPool) -> None:
    kinds: Counter[str] = Counter()
    for branch in only("story", pool, groups, count=30, unconditional_share=1.0):
        assert branch.is_image
        assert VOCAB.header_grid(branch.prompt) is not None
        pictures_before = list(branch.prompt).count(SPECIAL.eoi)
        unsaid = UNCONDITION in words(branch.prompt)
        assert unsaid
        text = words(branch.prompt).split("ASSISTANT")[-1].strip("</role> ")
        kinds["no_text" if pictures_before else "no_image" if text else "uncond"] += 1
    assert set(kinds) == {"no_text", "no_image", "uncond"}


def test_comparisons_and_facts_ask_several_questions(pool: CodePool, groups: TaskPool) -> None:
    for branch in only("comparison", pool, groups):
        assert not branch.is_image
        assert list(branch.prompt).count(SPECIAL.eoi) in (2, 3)
        assert branch.target[-1] == SPECIAL.eos
        assert words(branch.target[:-1]).strip()
    for document in documents(writer(fact_share=1.0), pool, groups, 6):
        assert len(document.branches) == 2
        for branch in document.branches:
            assert SPECIAL.soi not in branch.prompt
            assert branch.target[-1] == SPECIAL.eos


def edits(groups: TaskPool) -> dict[tuple[int, ...], tuple[Edit, list[tuple[int, ...]]]]:
    """Edits of the pool by the ids of their target, with the ids of all their pictures."""
    found = {}
    for shard in (0, 3):
        for index in range(GROUPS.shard_size):
            edit, codes = groups.group(shard, index)
            assert isinstance(edit, Edit)
            ids = [tuple(int(code) + VOCAB.image_offset for code in one.flat) for one in codes]
            found[ids[-1]] = (edit, ids)
    return found


def code_ids(ids: object) -> tuple[int, ...]:
    return tuple(int(i) for i in ids if int(i) >= VOCAB.image_offset)  # pyright: ignore


def grid_of(branch: Branch) -> TokenGrid:
    grid = VOCAB.header_grid(branch.prompt)
    assert grid is not None
    return grid


# --- rows -------------------------------------------------------------------------------------------------------------


def test_nothing_in_a_prompt_is_ever_masked(pool: CodePool, groups: TaskPool) -> None:
    found = documents(writer(**EVERYTHING, unconditional_share=0.3), pool, groups, 24)
    layouts = [lay_out(document, SPECIAL.eos) for document in found]
    for document, layout in zip(found, layouts, strict=True):
        noisy = layout.stream > 0
        for index, branch in enumerate(document.branches):
            own = noisy & (layout.sample == index)
            assert (layout.maskable[own] == (layout.position[own] >= len(branch.prompt))).all()
            whole = np.array([*branch.prompt, *branch.target])
            inside = own & (layout.position < len(whole))
            assert (layout.ids[inside] == whole[layout.position[inside]]).all()
    rows = noised(
        collate(layouts, 256, SPECIAL.eos), IMAGE_LAW, TEXT_LAW, SPECIAL.mask, torch.Generator().manual_seed(0)
    )
    assert not (rows["masked"] & ~rows["maskable"]).any()
    codes = rows["ids"] >= VOCAB.image_offset
    assert rows["image"][codes & rows["maskable"]].all(), "codes follow the law of pictures"


def test_complementary_views_leave_segmented_targets_single(pool: CodePool, groups: TaskPool) -> None:
    made = TaskWriter(
        writer=Writer(vocab=VOCAB, tokenizer=TEXT, mix=MixConfig(complementary=True, questions=2, **EVERYTHING))
    )
    views = {document.branches[0].tag: set() for document in documents(made, pool, groups, 24)}
    for document in documents(made, pool, groups, 24):
        if document.branches[0].segments:
            assert document.views == 1
        views[document.branches[0].tag].add(document.views)
    assert views[tag_of("edit")] == {2}


# --- pools of groups --------------------------------------------------------------------------------------------------


def test_a_shard_holds_groups_of_one_task_on_one_grid(groups: TaskPool, tokenizer: ImageTokenizer) -> None:
    kinds = {"edit": Edit, "story": Story, "comparison": PictureSet}
    for shard in range(GROUPS.num_shards):
        grids = set()
        for index in range(GROUPS.shard_size):
            group, codes = groups.group(shard, index)
            assert isinstance(group, kinds[GROUPS.task(shard)])
            assert len(codes) == len(group.graphs)
            assert not any(map(is_held_out, group.graphs))
            grids |= {(graph.grid_h, graph.grid_w) for graph in group.graphs} | {one.shape for one in codes}
        assert len(grids) == 1
        group, codes = groups.group(shard, 2)
        assert np.array_equal(np.stack(codes), encode_pictures(tokenizer, pictures(group.graphs)))


def test_picking_reaches_every_shard_of_a_task(groups: TaskPool) -> None:
    source = random.Random(0)
    drawn = [groups.pick("edit", source)[0] for _ in range(40)]
    assert any(group in GROUPS.groups(0) for group in drawn)
    assert any(group in GROUPS.groups(3) for group in drawn)
    with pytest.raises(ConfigError, match="the task pool holds no poem groups"):
        groups.pick("poem", source)


def test_group_shards_follow_the_rules_of_scene_shards(tokenizer: ImageTokenizer, tmp_path: Path) -> None:
    small = TaskPoolConfig(num_shards=2, shard_size=2, seed=1, turns=("edit", "story"))
    done: list[int] = []
    extract(small, tokenizer, tmp_path, report=done.append)
    extract(small, tokenizer, tmp_path, report=done.append)
    assert done == [0, 1]
    mark = fingerprint(small, tokenizer)
    TaskPool(small, tmp_path, mark)
    for other in (TaskPoolConfig(num_shards=2, shard_size=2, seed=2, turns=small.turns), PoolConfig(seed=1)):
        assert fingerprint(other, tokenizer) != mark
    with pytest.raises(CheckpointError, match="extract the pool again"):
        TaskPool(small, tmp_path, "other")


def test_wrong_pools_are_one_line() -> None:
    with pytest.raises(ConfigError, match="unknown task 'poem'; expected some of edit, story, comparison"):
        TaskPoolConfig(turns=("edit", "poem"))
    with pytest.raises(ConfigError, match="expected at least 3, one per turn, got 2"):
        TaskPoolConfig(num_shards=2, turns=("edit", "story", "comparison"))


def test_regions_of_pictures_are_hidden(pool: CodePool, groups: TaskPool) -> None:
    tasks = ("thinking", "riddle", "thinking_riddle", "edit", "story")
    branches = [branch for task in tasks for branch in only(task, pool, groups, region_share=0.5)]
    branches += [b for d in documents(writer(region_share=0.5), pool, None, 40) for b in d.branches if b.is_image]
    found = []
    for branch in branches:
        hidden, target = np.array(branch.hidden), np.array(branch.target)
        assert (target[hidden] >= VOCAB.image_offset).all()
        found.append(hidden.any())
    assert 0.3 < np.mean(found) < 0.8
    plain = [b for d in documents(writer(), pool, None, 12) for b in d.branches]
    assert not any(any(branch.hidden) for branch in plain)


def test_a_hidden_region_is_a_rectangle_anywhere() -> None:
    grid, source = TokenGrid(4, 6), random.Random(0)
    ever = np.zeros((4, 6), dtype=bool)
    for _ in range(50):
        marks = hidden_region(grid, 25, source, 1.0)
        assert len(marks) == 25
        assert not marks[24]
        cells = np.array(marks[:24]).reshape(4, 6)
        rows, columns = np.nonzero(cells.any(1))[0], np.nonzero(cells.any(0))[0]
        assert cells[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert min(len(rows), len(columns)) >= 2
        ever |= cells
    assert ever.all()
