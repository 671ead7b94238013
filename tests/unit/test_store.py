"""The embedding store."""

from __future__ import annotations

import dataclasses
import json
import os
import time

import numpy as np
import pytest

from nver.audio import Waveform, measure
from nver.encoders.base import EncoderCard
from nver.errors import StoreError
from nver.store import CACHED_PARTS, EmbeddingStore, FactsTable

CARD = EncoderCard(
    name="test/one",
    summary="Numbers.",
    dim=3,
    rate=16000,
    modality="weight-free",
    pooling="none",
    licence="Apache-2.0",
    citation="Nobody",
    revision="1",
)


def key(number: int) -> str:
    return f"{number:064x}"


def rows(*numbers: int) -> np.ndarray:
    return np.array([[n, n / 2, -n] for n in numbers], dtype=np.float32).reshape(-1, 3)


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore(tmp_path / "store")


@pytest.fixture
def table(store):
    return store.open(CARD)


def folder_of(store, card=CARD):
    return next(store.path.glob(f"*{card.fingerprint[:16]}"))


def parts_of(store):
    return sorted(folder_of(store).glob("*.safetensors"))


class TestTable:
    def test_returns_what_was_put_in_in_any_order(self, table):
        table.append([key(1), key(2)], rows(1, 2))
        table.append([key(3)], rows(3))
        np.testing.assert_array_equal(table.get([key(3), key(1), key(1)]), rows(3, 1, 1))
        assert table.keys() == {key(1), key(2), key(3)}

    def test_is_the_same_after_opening_again(self, store, table):
        table.append([key(1), key(2)], rows(1, 2))
        again = store.open(CARD)
        assert again.keys() == {key(1), key(2)}
        np.testing.assert_array_equal(again.get([key(2)]), rows(2))

    def test_sees_what_another_writer_added(self, store, table):
        other = store.open(CARD)
        table.append([key(1)], rows(1))
        np.testing.assert_array_equal(other.get([key(1)]), rows(1))
        table.append([key(2)], rows(2))
        assert other.keys() == {key(1), key(2)}

    def test_the_first_of_equal_keys_counts(self, store, table):
        other = store.open(CARD)
        table.append([key(1), key(1)], rows(1, 5))
        table.append([key(1)], rows(6))
        assert len(parts_of(store)) == 1
        other.append([key(1)], rows(7))  # it has not looked since: a second part with the same key
        assert len(parts_of(store)) == 2
        np.testing.assert_array_equal(store.open(CARD).get([key(1)]), rows(1))

    def test_reads_more_parts_than_it_keeps_in_memory(self, table):
        count = 3 * CACHED_PARTS
        for number in range(count):
            table.append([key(number)], rows(number))
        for _ in range(2):
            found = table.get([key(number) for number in range(count)])
            np.testing.assert_array_equal(found, rows(*range(count)))

    def test_nothing_in_nothing_out(self, store, table):
        table.append([], rows())
        assert parts_of(store) == []
        assert table.get([]).shape == (0, 3)
        assert table.keys() == set()

    def test_missing_clips_are_counted_and_the_first_is_named(self, store, table):
        table.append([key(1)], rows(1))
        with pytest.raises(StoreError) as caught:
            table.get([key(1), key(2), key(3)])
        assert str(caught.value) == (
            f"2 of 3 clips have no entry in {folder_of(store)}, the first is {key(2)}. "
            "Run `nver embed` on the corpus first."
        )

    def test_shapes_that_disagree_are_refused(self, table):
        with pytest.raises(StoreError) as caught:
            table.append([key(1)], rows(1, 2))
        assert str(caught.value) == "1 clips of 'test/one' need vectors [1, 3], these are [2, 3]."

    def test_nan_is_refused(self, table):
        with pytest.raises(StoreError) as caught:
            table.append([key(1)], rows(1) * np.float32(np.nan))
        assert str(caught.value) == "Vectors of 'test/one' hold NaN or infinity: not stored."
        assert table.keys() == set()

    @pytest.mark.parametrize("bad", ["clip.wav", "ab", "z" * 64, "0" * 66])
    def test_a_key_is_a_digest(self, table, bad):
        with pytest.raises(StoreError) as caught:
            table.append([bad], rows(1))
        assert str(caught.value) == f"A key is a SHA-256 in 64 hex digits, not '{bad}'."


class TestFolder:
    def test_the_default_folder_is_that_of_nver_home(self, nver_home):
        assert EmbeddingStore().path == nver_home / "store"

    def test_the_header_says_what_the_table_is(self, store, table):
        assert folder_of(store).name == f"test-one-{CARD.fingerprint[:16]}"
        header = json.loads((folder_of(store) / "header.json").read_text())
        assert header["format"] == 1
        assert header["kind"] == "nver embeddings"
        assert header["fingerprint"] == CARD.fingerprint
        assert header["card"] == CARD.to_dict()
        assert header["card"]["licence"] == "Apache-2.0"

    def test_another_revision_is_another_table(self, store, table):
        table.append([key(1)], rows(1))
        newer = store.open(dataclasses.replace(CARD, revision="2"))
        assert newer.keys() == set()

    def test_a_corrected_licence_is_the_same_table_with_a_new_header(self, store, table):
        table.append([key(1)], rows(1))
        corrected = store.open(dataclasses.replace(CARD, licence="MIT"))
        assert corrected.keys() == {key(1)}
        header = json.loads((folder_of(store) / "header.json").read_text())
        assert header["card"]["licence"] == "MIT"

    @pytest.mark.parametrize(
        ("fact", "value"), [("format", 99), ("kind", "something"), ("fingerprint", "0" * 64)]
    )
    def test_a_folder_of_something_else_is_refused(self, store, table, fact, value):
        path = folder_of(store) / "header.json"
        header = json.loads(path.read_text())
        expected = header[fact]
        path.write_text(json.dumps(header | {fact: value}))
        with pytest.raises(StoreError) as caught:
            store.open(CARD)
        assert str(caught.value) == (
            f"{path} must have {fact} '{expected}', it has '{value}': another program or version "
            "wrote it. Move the folder away or set NVER_HOME to another one."
        )

    def test_a_header_that_is_no_json_is_refused(self, store, table):
        (folder_of(store) / "header.json").write_text("half a head")
        with pytest.raises(
            StoreError, match=r"^Cannot open the store's folder .*: Expecting value"
        ):
            store.open(CARD)

    def test_a_header_that_is_a_list_is_refused(self, store, table):
        (folder_of(store) / "header.json").write_text("[1]")
        with pytest.raises(StoreError, match=r"must have format '1', it has '\[1\]'"):
            store.open(CARD)

    def test_parts_without_a_header_are_refused(self, store, table):
        table.append([key(1)], rows(1))
        folder = folder_of(store)
        (folder / "header.json").unlink()
        with pytest.raises(StoreError) as caught:
            store.open(CARD)
        assert str(caught.value) == (
            f"{folder} holds parts but no header.json: nver did not write it. Move it."
        )

    def test_a_file_in_the_way_is_refused(self, tmp_path):
        (tmp_path / "store").write_text("a file")
        with pytest.raises(StoreError, match="Cannot open the store's folder"):
            EmbeddingStore(tmp_path / "store").open(CARD)

    def test_leftovers_are_ignored_and_removed_when_old(self, store, table):
        young, old = folder_of(store) / ".tmp-young", folder_of(store) / ".tmp-old"
        for leftover in (young, old):
            leftover.write_bytes(b"half a part")
        os.utime(old, (time.time() - 7200, time.time() - 7200))
        assert store.open(CARD).keys() == set()
        assert young.exists()
        assert not old.exists()

    def test_a_full_disk_leaves_no_entry_and_no_leftover(self, store, table, monkeypatch):
        def full(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StoreError) as caught:
            table.append([key(1)], rows(1))
        assert str(caught.value) == (
            f"Cannot write to the store at {folder_of(store)}: No space left on device. "
            "Make room or set NVER_HOME to another folder."
        )
        monkeypatch.undo()
        assert table.keys() == set()
        assert [path.name for path in folder_of(store).iterdir()] == ["header.json"]


class TestDamage:
    ADVICE = "Delete this file and run again: only the clips in it are encoded anew."

    @pytest.mark.parametrize("size", [0, 4, 100, -5])
    def test_a_truncated_part_is_named(self, store, table, size):
        table.append([key(1), key(2)], rows(1, 2))
        (part,) = parts_of(store)
        part.write_bytes(part.read_bytes()[:size])
        with pytest.raises(StoreError) as caught:
            store.open(CARD).keys()
        assert str(caught.value).startswith(f"The store's part {part} is damaged: ")
        assert str(caught.value).endswith(self.ADVICE)

    def test_a_flipped_bit_is_found(self, store, table):
        table.append([key(1), key(2)], rows(1, 2))
        (part,) = parts_of(store)
        data = bytearray(part.read_bytes())
        data[-3] ^= 1
        part.write_bytes(data)
        with pytest.raises(StoreError) as caught:
            store.open(CARD).get([key(1)])
        assert str(caught.value) == (
            f"The store's part {part} is damaged: the checksum does not match. {self.ADVICE}"
        )

    def test_a_part_of_another_width_is_found(self, store, table):
        other = dataclasses.replace(CARD, dim=5)
        store.open(other).append([key(1)], np.zeros((1, 5), dtype=np.float32))
        (part,) = folder_of(store, other).glob("*.safetensors")
        part.rename(folder_of(store) / part.name)
        with pytest.raises(StoreError, match=r"damaged: vectors is float32 \[1, 5\]"):
            table.get([key(1)])

    def test_a_part_that_vanished_is_found(self, store, table):
        table.append([key(1)], rows(1))
        parts_of(store)[0].unlink()
        with pytest.raises(StoreError, match="is damaged: No such file"):
            table.get([key(1)])


class TestFacts:
    def test_facts_come_back_as_they_were(self, store):
        facts = measure(Waveform(np.sin(np.arange(5000) / 3), 44100))
        identity = FactsTable.key(b"the bytes of the file")
        store.facts.append({identity: facts})
        for found in (store.facts.find(identity), EmbeddingStore(store.path).facts.find(identity)):
            assert (found.digest, found.seconds, found.rate) == (
                facts.digest,
                facts.seconds,
                facts.rate,
            )
            assert (found.channels, found.peak) == (facts.channels, facts.peak)
            np.testing.assert_array_equal(found.thumbprint, facts.thumbprint)

    def test_an_unknown_file_has_none(self, store):
        store.facts.append({})
        assert store.facts.find(key(1)) is None

    def test_the_key_follows_the_bytes_and_the_decoder(self, monkeypatch):
        before = FactsTable.key(b"one")
        assert FactsTable.key(b"one") == before
        assert FactsTable.key(b"two") != before
        monkeypatch.setattr("nver.store.decoder", lambda: "libsndfile/99")
        assert FactsTable.key(b"one") != before
