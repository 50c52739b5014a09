"""HippoRAG: walks, specificity, synonyms and erasure against values derived by hand, and a hop that embeddings miss."""

from __future__ import annotations

import json
from pathlib import Path

import networkx
import numpy as np
import pytest
from scipy.sparse import csr_array

from memory_r1.errors import ConfigurationError
from memory_r1.inference.language_model import Messages
from memory_r1.systems.hipporag import HippoRAG, HippoRAG2
from memory_r1.systems.hipporag_graph import MAX_SYNONYMS, PassageGraph, entity, pagerank, seeds, synonyms
from memory_r1.systems.writer import Writer
from memory_r1.types import Turn
from tests.fakes import FakeEmbedder, ScriptedLanguageModel

both = pytest.mark.parametrize("kind", [HippoRAG, HippoRAG2])


def embedder() -> FakeEmbedder:
    """A bag of words so wide that no two words of these tests fall on one number."""
    wide = FakeEmbedder()
    wide.dimension = 2**14
    return wide


def script(numbers: list[str] | None = None) -> ScriptedLanguageModel:
    """Find the triples in "Kim / knows / Lou; Lou / left / Rome", and keep the facts with these numbers, or all."""

    def reply(prompt: Messages, adapter: str | None) -> str:
        last = prompt[-1]["content"].splitlines()[-1]
        if last.startswith("Question: "):
            shown = len(prompt[-1]["content"].splitlines()) - 1
            return json.dumps({"numbers": [str(n + 1) for n in range(shown)] if numbers is None else numbers})
        told = [part.split(" / ") for part in last.partition(": ")[2].split("; ")]
        keys = ("subject", "relation", "object")
        triples = [{**dict(zip(keys, parts, strict=True)), "time": ""} for parts in told if len(parts) == 3]
        return json.dumps({"triples": triples})

    return ScriptedLanguageModel(reply)


def system(kind: type[HippoRAG] = HippoRAG, *texts: str, **options: object) -> HippoRAG:
    numbers = options.pop("numbers", None)
    options = {"recall_per_speaker": 9, **options}
    memory = kind(embedder(), Writer(script(numbers)), **options)  # type: ignore[arg-type]
    for number, text in enumerate(texts, 1):
        memory.observe(Turn(f"D:{number}", "Sam", text, "s1", "2023-05-01T10:00:00"), "a")
    return memory


def graph_of(memory: HippoRAG, *, with_facts: bool = False) -> PassageGraph:
    return PassageGraph(0.8, with_facts).grown(memory.embedded_state("a"), memory.embed)  # type: ignore[arg-type]


def recalled(memory: HippoRAG, query: str) -> list[int]:
    return [entry.entry_id for entry in memory.recall(query, "a").items]


def test_a_walk_on_five_nodes_solved_by_hand() -> None:
    """A hub h with leaves a (weight 2), b and c (weight 1), and d alone; damping 1/2.

    From a alone: h = (a + b + c) / 2, a = h/4 + 1/2, b = c = h/8, d = 0. So h = h/4 + 1/4 = 1/3,
    a = 7/12 and b = c = 1/24.

    From a with 2/3 and d with 1/3, d starts anew at every step: d = d/6 + 1/6 = 1/5,
    a = h/4 + (d + 1)/3 = h/4 + 2/5 and h = h/4 + 1/5 = 4/15, so a = 7/15 and b = c = 1/30.
    """
    weights = np.zeros((5, 5))
    weights[0, 1:4] = weights[1:4, 0] = [2, 1, 1]
    walk = pagerank(csr_array(weights), np.array([0.0, 1, 0, 0, 0]), 0.5)
    assert walk == pytest.approx([1 / 3, 7 / 12, 1 / 24, 1 / 24, 0])
    walk = pagerank(csr_array(weights), np.array([0.0, 2, 0, 0, 1]), 0.5)
    assert walk == pytest.approx([4 / 15, 7 / 15, 1 / 30, 1 / 30, 1 / 5])
    assert pagerank(csr_array(weights), np.array([0.0, 3, 0, 0, 1]), 0.0) == pytest.approx([0, 3 / 4, 0, 0, 1 / 4])


@pytest.mark.parametrize("damping", [0.3, 0.5, 0.85])
def test_walks_are_those_of_networkx(damping: float) -> None:
    graph = networkx.gnm_random_graph(40, 60, seed=1)  # some nodes are alone
    for number, edge in enumerate(graph.edges.values()):
        edge["weight"] = 1 + number % 3
    restart = {node: node + 1.0 for node in (3, 7, 20)}
    expected = networkx.pagerank(graph, damping, restart, tol=1e-14, max_iter=1000)
    weights = networkx.to_scipy_sparse_array(graph, nodelist=range(40), dtype=float, format="csr")
    walk = pagerank(weights, np.array([restart.get(node, 0.0) for node in range(40)]), damping)
    assert walk == pytest.approx([expected[node] for node in range(40)], abs=1e-10)


def test_specific_entities_weigh_more() -> None:
    """Five entities: A-C in passages 1 and 2, B-E in 3, E-F in 4; the question names A and B; damping 1/2.

    With restarts r and s at A and B: A and C keep r between them. F = E/4, E = B/2 + F/2 = 4/7 B, and
    B = E/4 + s/2 = 7/12 s, so E = s/3 and F = s/12. Passages 1 and 2 score r, 3 scores B + E = 11/12 s, and 4 scores
    E + F = 5/12 s.

    A is in two passages and B in one, so r = 1/3 and s = 2/3: 1/3, 1/3, 11/18, 5/18. With equal restarts passage 3
    would come after 1 and 2.
    """
    texts = ["Alba / met / Cleo", "Alba / called / Cleo", "Bruno / left / Erik", "Erik / saw / Fay"]
    memory = system(HippoRAG, *texts)
    graph = graph_of(memory)
    assert dict(graph.entities) == {"alba": 0, "cleo": 1, "bruno": 2, "erik": 3, "fay": 4}
    assert graph.specificity.tolist() == [1 / 2, 1 / 2, 1, 1 / 2, 1]
    assert graph.between_entities[0, 1] == 2
    scores = graph.held @ pagerank(graph.between_entities, np.array([1 / 2, 0, 1, 0, 0]), 0.5)
    assert scores == pytest.approx([1 / 3, 1 / 3, 11 / 18, 5 / 18])
    assert recalled(memory, "what about Alba and Bruno") == [3, 1, 2, 4]


TWO_HOPS = (
    "Kim / sees / Doctor Lou",
    "in which town does one grow herbs",
    "Doctor Lou / spent childhood at / Turin",
    "which town did the market move to",
)


@both
def test_the_graph_finds_the_second_hop_that_dense_search_misses(kind: type[HippoRAG]) -> None:
    memory = system(kind, *TWO_HOPS, recall_per_speaker=2)
    question = "in which town did the physician of Kim grow up"
    dense = memory.embedded_state("a").nearest(memory.embed([question])[0], 4)
    assert dense[:2] == [2, 4]
    assert recalled(memory, question) == [1, 3]


def test_version_2_joins_passages_and_entities() -> None:
    graph = graph_of(system(HippoRAG2, "Alba / met / Cleo", "hello"), with_facts=True)
    assert graph.with_passages.toarray().tolist() == [  # Alba, Cleo, passage 1, passage 2
        [0, 1, 1, 0],
        [1, 0, 1, 0],
        [1, 1, 0, 0],
        [0, 0, 0, 0],
    ]


def test_version_2_starts_at_the_five_best_entities_of_the_facts() -> None:
    graph = graph_of(system(HippoRAG2, "A / r / B; A / r / C", "A / s / D", "E / r / F; G / r / G"), with_facts=True)
    assert [*graph.facts] == ["A r B", "A r C", "A s D", "E r F", "G r G"]
    scores = np.array([1.0, 0.5, 0.9, 0.2, 0.3])
    # A is in two passages: (1 + 0.5) / 2 / 2.
    assert seeds(graph, [0, 1], scores).tolist() == [0.375, 1, 0.5, 0, 0, 0, 0]
    # A: (1 + 0.5 + 0.9) / 3 / 2 = 0.4; of A to G, E and F weigh least.
    assert seeds(graph, [0, 1, 2, 3, 4], scores) == pytest.approx([0.4, 1, 0.5, 0.9, 0, 0, 0.3])


def test_a_fact_that_the_filter_drops_starts_no_walk_and_without_any_dense_search_answers() -> None:
    question = "in which town did the physician of Kim grow up"
    kept = system(HippoRAG2, *TWO_HOPS, numbers=["1"])
    none = system(HippoRAG2, *TWO_HOPS, numbers=[])
    state = none.embedded_state("a")
    assert recalled(none, question) == state.nearest(none.embed([question])[0], 4)
    assert recalled(kept, question)[:2] == [1, 3]
    # The filter reads the nearest facts, and its call is counted. One number names no fact.
    beyond = system(HippoRAG2, *TWO_HOPS, numbers=["1", "9"])
    assert recalled(beyond, question) == recalled(kept, question)
    usage = kept.recall(question, "a").usage
    assert (usage["model_calls"], usage["written_by_model"]) == (1, 1)
    model = kept._writer.model
    assert isinstance(model, ScriptedLanguageModel)
    assert model.prompts[-1].splitlines() == [
        "1. Kim sees Doctor Lou",
        "2. Doctor Lou spent childhood at Turin",
        f"Question: {question}",
    ]


def test_rules_drop_facts_far_from_the_question() -> None:
    memory = HippoRAG2(embedder(), recall_per_speaker=9)
    for number, text in enumerate(["I live in Rome.", "Rome is far", "nice"], 1):
        memory.observe(Turn(f"D:{number}", "Sam", text), "a")
    near = memory.recall("where does Sam live", "a")  # 2 of 4 words of the fact "Sam live in Rome"
    assert (near.items[0].text, near.usage["written_by_rules"]) == ("I live in Rome.", 1)
    assert recalled(memory, "is it far") == [2, 1, 3]


def test_a_question_that_names_no_entity_is_answered_by_dense_search() -> None:
    memory = system(HippoRAG, "Alba / met / Cleo", "a red boat", "the sea")
    assert recalled(memory, "red sea boat") == [2, 3, 1]


def test_synonyms_are_joined_with_their_cosine() -> None:
    texts = [
        "red fish boat town lake / r / Alba",
        "red fish boat town hill / r / Bruno",
        "red fish boat sun / r / Cleo",
    ]
    graph = graph_of(system(HippoRAG, *texts))
    first, second, third = (graph.entities[text.partition(" / ")[0]] for text in texts)
    assert graph.between_entities[first, second] == pytest.approx(0.8)  # 4 of 5 words
    assert graph.between_entities[second, first] == pytest.approx(0.8)
    assert graph.between_entities[first, third] == 0  # 3 / sqrt(5 * 4) = 0.67


def test_synonyms_are_those_of_all_pairs_and_at_most_a_hundred_for_an_entity() -> None:
    rows = np.random.default_rng(0).normal(size=(3000, 5)).astype(np.float32)  # more than one block
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = synonyms(rows, 2000, 0.97)
    pairs = np.argwhere(np.tril(np.round(rows @ rows.T, 4), -1) >= 0.97)
    assert len(found) > 100
    assert {(int(new), int(old)) for new, old, _ in found} == {(n, o) for n, o in pairs.tolist() if n >= 2000}
    same = np.ones((MAX_SYNONYMS + 5, 1), dtype=np.float32)
    counts = np.bincount(synonyms(same, 0, 0.8)[:, 0].astype(int))
    assert (counts[50], counts[-1]) == (50, MAX_SYNONYMS)


def test_entities_are_compared_without_case_and_punctuation() -> None:
    assert entity(" Kim's  Doctor! ") == entity("kim s doctor") == "kim s doctor"
    assert entity("🙂") == "🙂"


@both
def test_an_entity_goes_with_the_last_passage_that_holds_it(kind: type[HippoRAG], tmp_path: Path) -> None:
    texts = ["Alba / owns / secretcat", "Momo / knows / Alba", "Momo / likes / fish"]
    memory = system(kind, *texts)
    recalled(memory, "who owns the secretcat")
    memory.forget("a", {1})
    assert [*graph_of(memory).entities] == ["momo", "alba", "fish"]
    encoder = memory._embedder
    assert isinstance(encoder, FakeEmbedder)
    encoder.calls.clear()
    assert recalled(memory, "Alba?") == [2, 3]
    # The embedding of Alba lay in the erased turn.
    assert [text for call in encoder.calls for text in call if text not in ("Alba?", "alba")] == []
    memory.save(tmp_path / "memory")
    assert b"secretcat" not in (tmp_path / "memory").read_bytes()
    memory.forget("a", {2})
    assert [*graph_of(memory).entities] == ["momo", "fish"]


def test_a_scope_that_starts_anew_has_nothing_of_the_graph_before() -> None:
    memory = system(HippoRAG, "Alba / owns / secretcat")
    assert recalled(memory, "Alba") == [1]
    memory.forget("a")
    memory.observe(Turn("D:1", "Sam", "Bruno / left / Erik"), "a")
    assert [entry.text for entry in memory.recall("Alba", "a").items] == ["Bruno / left / Erik"]


def test_a_loaded_memory_has_nothing_of_the_graph_before(tmp_path: Path) -> None:
    system(HippoRAG, "Bruno / left / Erik", "Alba / met / Cleo").save(tmp_path / "memory")
    memory = system(HippoRAG, "Alba / met / Cleo", "Bruno / left / Erik")
    assert recalled(memory, "Cleo") == [1, 2]
    memory.load(tmp_path / "memory")
    assert recalled(memory, "Cleo") == [2, 1]


@both
def test_phrases_are_embedded_once_and_a_loaded_memory_embeds_the_question_alone(
    kind: type[HippoRAG], tmp_path: Path
) -> None:
    memory = system(kind, "Alba / met / Cleo", "Cleo / met / Alba", "Cleo / met / Alba")
    encoder = memory._embedder
    assert isinstance(encoder, FakeEmbedder)
    told = [text for call in encoder.calls for text in call]
    assert [told.count(text) for text in ("alba", "cleo", "Cleo met Alba")] == [1, 1, int(kind is HippoRAG2)]
    memory.save(tmp_path / "memory")
    loaded = kind(embedder(), recall_per_speaker=9)
    loaded.load(tmp_path / "memory")
    loaded.recall("red Alba", "a")
    encoder = loaded._embedder
    assert isinstance(encoder, FakeEmbedder)
    phrases = ["red", "alba", "red alba"] if kind is HippoRAG else []
    assert sorted(text for call in encoder.calls for text in call) == sorted(["red Alba", *phrases])


@both
def test_a_graph_that_grew_is_the_graph_built_at_once(kind: type[HippoRAG], tmp_path: Path) -> None:
    texts = [f"Person {n % 7} of town {n % 3} / met / person {n % 5} of town {n % 4}" for n in range(40)]
    queries = [f"person {n} of town {n % 4}" for n in range(7)]
    memory = system(kind, recall_per_speaker=20)
    for number, text in enumerate(texts):
        memory.observe(Turn(f"D:{number}", "Sam", text), "a")
        memory.recall("person 3", "a")
    memory.save(tmp_path / "memory")
    loaded = system(kind, recall_per_speaker=20)
    loaded.load(tmp_path / "memory")
    assert [loaded.recall(query, "a") for query in queries] == [memory.recall(query, "a") for query in queries]


@pytest.mark.parametrize(
    "options", [{"synonym_threshold": 0.0}, {"damping": 1.0}, {"passage_weight": -1.0}, {"facts": 0}, {"facts": 10}]
)
def test_settings_out_of_range_are_refused(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(ConfigurationError, match=f"{name} is .*: give"):
        HippoRAG2(FakeEmbedder(), recall_per_speaker=1, **options)
