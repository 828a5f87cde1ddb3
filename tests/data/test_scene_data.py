"""Pictures, labels, questions and pools made from scenes."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from llada_uni.data.code_meanings import code_meanings
from llada_uni.data.code_pool import CodePool, PoolConfig, encode_pictures, extract, fingerprint
from llada_uni.data.dense_labels import HEADS, IGNORED, LETTERS, cell_labels
from llada_uni.data.latent_pool import LatentPool, encode_latents
from llada_uni.data.question_rows import question_rows
from llada_uni.data.scene_stream import draw_grid, draw_scenes, halved, pictures, random_crops, to_unit
from llada_uni.data.tokenizer_pixels import jittered, reduced, to_patches
from llada_uni.data.unified_stream import MixConfig, Writer
from llada_uni.data.windows import window
from llada_uni.decoder.config import VAEConfig
from llada_uni.decoder.vae import VAE
from llada_uni.errors import CheckpointError
from llada_uni.image_tokenizer import patchify
from llada_uni.image_tokenizer.config import ImageTokenizerConfig, PreprocessorConfig, VisionConfig, VQConfig
from llada_uni.image_tokenizer.model import ImageTokenizer
from llada_uni.scenes.graph import KINDS, SceneGraph, SceneObject
from llada_uni.scenes.questions import FAMILIES
from llada_uni.testing.checkpoint import tiny_text_tokenizer

POOL = PoolConfig(num_shards=3, shard_size=4, seed=5, grids=((8, 8, 1.0),))


@pytest.fixture(scope="module")
def tokenizer() -> ImageTokenizer:
    torch.manual_seed(0)
    vision = VisionConfig(hidden_size=8, intermediate_size=8, depth=1, num_heads=1, patch_size=8, image_size=64)
    shape = ImageTokenizerConfig(
        vision_config=vision, vq_config=VQConfig(num_embeddings=20, embed_dim=4, latent_channels=8)
    )
    return ImageTokenizer(shape).eval().requires_grad_(False)


def scene() -> SceneGraph:
    objects = (
        SceneObject(kind="cat", colour="red", size="large", row=0, column=1),
        SceneObject(kind="sign", colour=None, size="small", row=5, column=3, word="BUS"),
        SceneObject(kind="key", colour="blue", size="small", row=1, column=6),
    )
    return SceneGraph(objects=objects, background="night", style="outline")


def test_labels_say_what_each_cell_shows() -> None:
    labels = {name: values.reshape(8, 8) for name, values in cell_labels([scene()]).items()}
    assert set(labels) == set(HEADS)
    assert (labels["kind"] == KINDS.index("cat") + 1).sum() == 9
    assert (labels["kind"] == len(KINDS) + 1).sum() == 6
    assert [LETTERS[i] for i in labels["letter"][5, 3:6]] == list("BUS")
    assert (labels["letter"] != IGNORED).sum() == 3
    assert labels["row"][0:3, 1].tolist() == [0, 1, 2]
    assert labels["column"][1, 6:8].tolist() == [0, 2]
    assert (labels["background"] != IGNORED).sum() == (labels["kind"] == 0).sum() == 64 - 9 - 6 - 4
    assert (labels["style"][labels["kind"] > 0] == 1).all()
    assert (labels["colour"][5, 3:6] == IGNORED).all()
    for name, classes in HEADS.items():
        known = labels[name][labels[name] != IGNORED]
        assert 0 <= known.min() <= known.max() < classes


def test_patches_are_those_of_the_tokenizer_front_end() -> None:
    images = reduced(pictures([scene()] * 2))
    expected, grids = patchify(list(images), PreprocessorConfig(patch_size=8))
    torch.testing.assert_close(to_patches(images, 8), torch.as_tensor(expected), rtol=0, atol=1e-6)
    assert [(g.grid_h, g.grid_w) for g in grids] == [(8, 8)] * 2


def test_half_size_pictures_agree_between_filters() -> None:
    images = pictures([scene()])
    exact = images.reshape(1, 64, 2, 64, 2, 3).mean(axis=(2, 4))
    assert np.abs(halved(images) - exact).max() <= 0.5
    for index in range(4):
        assert reduced(images, index).shape == (1, 64, 64, 3)
        assert np.abs(reduced(images, index).astype(float) - exact).mean() < 6
    assert jittered(np.random.default_rng(0), images).dtype == np.uint8


def test_crops_lie_on_their_step_and_units_span_minus_one_to_one() -> None:
    images = np.arange(64, dtype=np.uint8)[None, :, None, None].repeat(64, 2).repeat(3, 3).repeat(5, 0)
    crops = random_crops(np.random.default_rng(0), images, 16, step_px=4)
    assert crops.shape == (5, 16, 16, 3)
    assert (crops[:, 0, 0, 0] % 4 == 0).all()
    unit = to_unit(np.array([[[[0, 255, 0]]]], dtype=np.uint8))
    assert unit.flatten().tolist() == [-1.0, 1.0, -1.0]


def test_scenes_are_a_function_of_the_generator_and_grids_follow_their_shares() -> None:
    first = draw_scenes(np.random.default_rng(3), 5, (8, 12))
    assert first == draw_scenes(np.random.default_rng(3), 5, (8, 12))
    assert first != draw_scenes(np.random.default_rng(4), 5, (8, 12))
    rng = np.random.default_rng(0)
    drawn = [draw_grid(rng) for _ in range(400)]
    assert 0.6 < sum(grid == (8, 8) for grid in drawn) / 400 < 0.8


def test_question_rows_supervise_answers_only() -> None:
    text = tiny_text_tokenizer()
    vocab = text.vocab(text_vocab_size=text.num_ids, num_codes=20)
    rows = question_rows([scene()] * 2, random.Random(0), text, vocab, 3)
    for row in range(2):
        for question in range(3):
            own = rows.question[row] == question
            targets = rows.targets[row][own & rows.answered[row]].tolist()
            assert targets[-1] == vocab.special.eos
            assert text.decode(targets).strip()
            assert rows.place[row][own].tolist() == list(range(int(own.sum())))
            start = int(rows.answered[row][own].int().argmax())
            assert rows.ids[row][own][start] == vocab.special.boi
    assert not rows.answered[rows.question < 0].any()


def test_extraction_continues_where_it_stopped_and_notices_other_weights(
    tokenizer: ImageTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    extract(PoolConfig(num_shards=2, shard_size=4, seed=5, grids=POOL.grids), tokenizer, tmp_path, report=done.append)
    extract(POOL, tokenizer, tmp_path, report=done.append)
    assert done == [0, 1, 2]
    mark = fingerprint(POOL, tokenizer)
    pool = CodePool(POOL, tmp_path, mark)
    assert len(pool) == 12
    graph, codes = pool[5]
    assert graph == POOL.scenes(1)[1]
    assert np.array_equal(codes, encode_pictures(tokenizer, pictures([graph]))[0])
    with pytest.raises(CheckpointError, match="extract the pool again"):
        CodePool(POOL, tmp_path, "other")
    with torch.no_grad():
        tokenizer.codebook[0, 0] += 1
    extract(POOL, tokenizer, tmp_path, report=done.append)
    assert done == [0, 1, 2, 0, 1, 2]


def test_latents_of_windows_are_windows_of_whole_latents(tokenizer: ImageTokenizer, tmp_path: Path) -> None:
    extract(POOL, tokenizer, tmp_path)
    codes = CodePool(POOL, tmp_path, fingerprint(POOL, tokenizer))
    torch.manual_seed(1)
    vae = VAE(VAEConfig(block_out_channels=(4, 4, 4), layers_per_block=1, latent_channels=2, norm_num_groups=2,
                        mid_block_add_attention=False)).eval().requires_grad_(False)  # fmt: skip
    pool = LatentPool(codes, vae, tmp_path / "latents", 1)
    latents, windows, origin = pool.crops(np.random.default_rng(0), 6, 4)
    assert latents.shape == (6, 2, 16, 16)
    assert windows.shape == (6, 4, 4)
    scenes, all_codes = codes.shard(0)
    whole = encode_latents(vae, pictures(scenes)).astype(np.float32)
    for index in range(6):
        row, column = origin[index].tolist()
        matches = [
            i for i in range(4)
            if np.array_equal(all_codes[i, row : row + 4, column : column + 4], windows[index].numpy())
        ]  # fmt: skip
        cut = (slice(None), slice(4 * row, 4 * row + 16), slice(4 * column, 4 * column + 16))
        assert any(np.allclose(whole[i][cut], latents[index].numpy(), atol=1e-6) for i in matches)
    again = LatentPool(codes, vae, tmp_path / "latents", 1).whole(np.random.default_rng(0), 2)
    assert again[0].shape == (2, 2, 32, 32)


def test_documents_end_with_their_targets(tokenizer: ImageTokenizer, tmp_path: Path) -> None:
    extract(POOL, tokenizer, tmp_path)
    pool = CodePool(POOL, tmp_path, fingerprint(POOL, tokenizer))
    text = tiny_text_tokenizer()
    vocab = text.vocab(text_vocab_size=text.num_ids, num_codes=20)
    writer = Writer(vocab=vocab, tokenizer=text, mix=MixConfig(image_share=0.5, questions=2))
    documents = writer.documents(np.random.default_rng(0), pool, 8)
    painting, reading = documents[:4], documents[4:]
    for document in painting:
        (branch,) = document.branches
        assert branch.is_image
        assert branch.prompt[-4:] == vocab.header(vocab.header_grid(branch.prompt))
        assert len(branch.target) == 66
        assert branch.target[-2:] == (vocab.special.eoi, vocab.special.eos)
    for document in reading:
        assert len(document.branches) == 2
        assert all(branch.target[-1] == vocab.special.eos for branch in document.branches)
        assert all(0 <= branch.tag < len(FAMILIES) for branch in document.branches)
    whole = Writer(vocab=vocab, tokenizer=text, mix=MixConfig(image_share=1.0, whole_until=0.5))
    early, late = (whole.documents(np.random.default_rng(0), pool, 4, progress=share) for share in (0.4, 0.5))
    assert all(d.block_length == len(d.branches[0].prompt) + len(d.branches[0].target) for d in early)
    assert {d.block_length for d in late} <= {16, 32, 64}
    never = Writer(vocab=vocab, tokenizer=text, mix=MixConfig(unconditional_share=1.0))
    prompts = {d.branches[0].prompt for d in never.documents(np.random.default_rng(0), pool, 4)[:2]}
    assert len(prompts) == 1


def test_windows_cut_no_object_and_keep_codes_in_place() -> None:
    source = random.Random(0)
    graphs = draw_scenes(np.random.default_rng(0), 200, (8, 12))
    where = np.arange(96, dtype=np.int64).reshape(8, 12)
    sizes = set()
    for graph in graphs:
        part, codes = window(graph, where, source)
        assert codes.shape == (part.grid_h, part.grid_w)
        top, left = divmod(int(codes[0, 0]), 12)
        assert (codes == where[top : top + part.grid_h, left : left + part.grid_w]).all()
        moved = {dataclasses.replace(o, row=o.row + top, column=o.column + left) for o in part.objects}
        assert moved <= set(graph.objects)
        covered = cell_labels([graph])["kind"].reshape(8, 12)[top : top + part.grid_h, left : left + part.grid_w] > 0
        assert (covered == (cell_labels([part])["kind"].reshape(codes.shape) > 0)).all()  # nothing else reaches in
        assert part.objects
        sizes.add(codes.shape)
    assert len(sizes) > 10
    assert all(3 <= side <= 6 for shape in sizes - {(8, 12)} for side in shape)


def test_a_scene_without_objects_is_its_own_window() -> None:
    empty = SceneGraph()
    part, codes = window(empty, np.zeros((8, 8), dtype=np.int64), random.Random(0))
    assert part == empty
    assert codes.shape == (8, 8)


def test_meanings_are_shares_of_what_cells_show(tokenizer: ImageTokenizer, tmp_path: Path) -> None:
    extract(POOL, tokenizer, tmp_path)
    pool = CodePool(POOL, tmp_path, fingerprint(POOL, tokenizer))
    shares = code_meanings(pool, 20, 2)
    kinds = HEADS["kind"]
    assert shares.shape == (20, sum(HEADS.values()))
    labels, codes = [], []
    for index in range(2):
        scenes, shard = pool.shard(index)
        labels.append(cell_labels(scenes)["kind"].reshape(-1))
        codes.append(shard.reshape(-1))
    kind, code = np.concatenate(labels), np.concatenate(codes)
    used = int(np.bincount(code).argmax())
    expected = np.bincount(kind[code == used], minlength=kinds) / (code == used).sum()
    np.testing.assert_allclose(shares[used, :kinds].numpy(), expected, rtol=1e-6)
    unused = sorted(set(range(20)) - set(code.tolist()))
    assert all((shares[index] == 0).all() for index in unused)
