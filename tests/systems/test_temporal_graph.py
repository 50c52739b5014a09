"""The temporal graph: when facts hold, in whatever order they are told; merges; searches; two writers on one file."""

from __future__ import annotations

import json
import random
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path

import pytest

from memory_r1.errors import ConfigurationError, DataError
from memory_r1.inference.language_model import Messages
from memory_r1.memory.retriever import reciprocal_rank_fusion
from memory_r1.systems.temporal_graph import RANK_CONSTANT, TemporalGraph
from memory_r1.systems.temporal_graph_facts import CONTRADICTIONS, ENTITY_MERGE
from memory_r1.systems.temporal_graph_state import EDGE, moment, plain_name, slot_of
from memory_r1.systems.triples import TRIPLES
from memory_r1.systems.writer import Writer, count_writings
from memory_r1.types import Turn
from tests.fakes import FakeEmbedder, ScriptedLanguageModel

MARCH, MAY, JULY = "2023-03-01", "2023-05-01", "2023-07-01"


class Judge:
    """A model that reads a turn such as "Ann | lives in | Rome | 2023-05-01" as that fact.

    Of the known lines that it is shown, it merges the first name that `same` matches, takes facts that `again` matches
    for repeated, and those that `ended` matches for contradicted.
    """

    def __init__(self, *, same: str = "^$", again: str = "^$", ended: str = "^$") -> None:
        self.same, self.again, self.ended = re.compile(same), re.compile(again), re.compile(ended)
        self.asked: dict[str, list[str]] = {ENTITY_MERGE.name: [], CONTRADICTIONS.name: []}
        self.model = ScriptedLanguageModel(self.reply)

    def reply(self, prompt: Messages, adapter: str | None) -> str:
        task, lines = prompt[0]["content"], prompt[-1]["content"]
        if task == TRIPLES.instructions:
            said = lines.splitlines()[-1].partition(": ")[2].split(" | ")
            parts = ("subject", "relation", "object", "time")
            return json.dumps({"triples": [dict(zip(parts, [*said, ""], strict=False))] if len(said) > 2 else []})
        known = re.findall(r"^(\d+)\. (.*)$", lines, re.MULTILINE)
        if task == ENTITY_MERGE.instructions:
            self.asked[ENTITY_MERGE.name].append(lines)
            return json.dumps({"same": [number for number, line in known if self.same.search(line)][:1]})
        self.asked[CONTRADICTIONS.name].append(lines)
        again, ended = ([number for number, line in known if it.search(line)] for it in (self.again, self.ended))
        return json.dumps({"same": again, "ended": ended})


def system(judge: Judge | None = None, **options: float) -> TemporalGraph:
    writer = Writer(judge.model) if judge else None
    return TemporalGraph(FakeEmbedder(), writer, **{"recall_per_speaker": 3, **options})  # type: ignore[arg-type]


def tell(graph: TemporalGraph, *told: tuple[str, str], speaker: str = "Ann", scope: str = "a") -> TemporalGraph:
    """Play turns of a speaker, each with its day; their ids go on counting."""
    for text, day in told:
        number = len(graph.records(scope)) + 1
        graph.observe(Turn(f"D:{number}", speaker, text, f"s{day}", f"{day}T10:00:00"), scope)
    return graph


def intervals(graph: TemporalGraph, scope: str = "a") -> dict[str, tuple[str, str | None]]:
    """Return the days from and to which each fact holds."""
    edges = graph.state(scope).edges
    return {
        entry.text: (edges[entry.entry_id].valid_at[:10], (edges[entry.entry_id].invalid_at or "")[:10] or None)
        for entry in graph.entries(scope)
    }


def texts(graph: TemporalGraph, at: str = "", query: str = "where does Ann live") -> list[str]:
    return [entry.text for entry in graph.recall(query, "a", at).items]


ROME, OSLO, BERN = ("I live in Rome.", MARCH), ("I live in Oslo.", MAY), ("I live in Bern.", JULY)


def test_a_fact_holds_until_the_next_one_in_its_place_begins() -> None:
    graph = tell(system(), ROME, OSLO)
    assert intervals(graph) == {"Ann live in Rome": (MARCH, MAY), "Ann live in Oslo": (MAY, None)}
    rome, oslo = (graph.state("a").edges[item] for item in (1, 2))
    # System time: the graph learnt of Rome in March, and of its end in May.
    assert (rome.created_at, rome.expired_at) == ("2023-03-01T10:00:00", "2023-05-01T10:00:00")
    assert (oslo.created_at, oslo.expired_at) == ("2023-05-01T10:00:00", None)
    assert [entry.text for entry in graph.entries("a")] == ["Ann live in Rome", "Ann live in Oslo"]  # nothing is lost


@pytest.mark.parametrize("judge", [None, "model"])
@pytest.mark.parametrize("order", permutations(range(3)))
def test_intervals_are_the_same_in_whatever_order_facts_are_told(order: tuple[int, ...], judge: str | None) -> None:
    told = [
        ("Ann | lives in | Rome | 2023-03-01", MARCH),
        ("Ann | lives in | Oslo | 2023-05-01", MAY),
        ("Ann | lives in | Bern | 2023-07-01", JULY),
    ]
    if judge:
        graph = tell(system(Judge(ended="lives in")), *[(told[place][0], JULY) for place in order])
        text = "Ann lives in {} (since {})"
    else:
        graph = tell(system(), *[(ROME, OSLO, BERN)[place] for place in order])
        text = "Ann live in {}"
    expected = {("Rome", MARCH): MAY, ("Oslo", MAY): JULY, ("Bern", JULY): None}
    assert intervals(graph) == {text.format(place, day): (day, end) for (place, day), end in expected.items()}


def test_a_long_chain_told_in_any_order_has_no_gap_and_each_fact_names_few_others() -> None:
    days = [f"2023-{1 + place // 20:02}-{1 + place % 20:02}" for place in range(60)]
    shuffled = [*days]
    random.Random(0).shuffle(shuffled)
    graph = tell(system(), *((f"I live in town {day}.", day) for day in shuffled))
    ends = dict(intervals(graph).values())
    assert ends == dict(zip(days, [*days[1:], None], strict=True))
    named = [event.payload[EDGE]["contradicts"] for record in graph.records("a") for event in record.events[:1]]
    assert max(map(len, named)) == 8
    # A chain from which a link is erased closes again.
    second = next(entry.entry_id for entry in graph.entries("a") if entry.timestamp.startswith(days[1]))
    graph.forget("a", {second})
    assert dict(intervals(graph).values())[days[0]] == days[2]


def test_a_late_told_older_fact_is_born_expired() -> None:
    graph = tell(system(), OSLO, ROME)
    rome = graph.state("a").edges[2]
    assert (rome.invalid_at, rome.expired_at) == ("2023-05-01T10:00:00", "2023-03-01T10:00:00")
    assert texts(graph) == ["Ann live in Oslo"]


def test_intervals_that_do_not_overlap_are_left_alone() -> None:
    """Rome ended in May; that a fact of July contradicts it too changes nothing."""
    judge = Judge(ended="Rome")
    graph = tell(system(judge), ("Ann | lives in | Rome", MARCH), ("Ann | lives in | Oslo", MAY))
    before = graph.state("a").edges[1]
    tell(graph, ("Ann | lives in | Bern", JULY))
    assert "Rome" in judge.asked[CONTRADICTIONS.name][-1]
    assert graph.state("a").edges[1] == before
    assert intervals(graph)["Ann lives in Oslo"] == (MAY, None)  # the model did not say that it ended


def test_a_recall_finds_what_held_before_between_and_after() -> None:
    graph = tell(system(), ROME, OSLO)
    assert texts(graph, "2023-02-01") == []
    assert texts(graph, "2023-04-01") == ["Ann live in Rome"]
    assert texts(graph, MAY + "T10:00:00") == texts(graph, "2024-01-01") == texts(graph) == ["Ann live in Oslo"]
    assert [e.text for e in graph.recall_at("where does Ann live", "a", "2023-04-01").items] == ["Ann live in Rome"]
    assert graph.recall_at("where does Ann live", "a", "2023-04-01", 0).items == ()
    with pytest.raises(DataError, match="'spring' is not ISO 8601"):
        graph.recall_at("where does Ann live", "a", "spring")


def test_what_is_told_as_coming_is_recalled_now_and_held_at_its_own_time() -> None:
    graph = tell(
        system(Judge(ended="Rome")), ("Ann | lives in | Rome", MARCH), (f"Ann | lives in | Oslo | {JULY}", MAY)
    )
    rome = graph.state("a").edges[1]
    assert (rome.invalid_at, rome.expired_at) == (JULY + "T00:00:00", MAY + "T10:00:00")
    assert {*texts(graph, "2023-06-01")} == {"Ann lives in Rome", f"Ann lives in Oslo (since {JULY})"}
    assert [e.text for e in graph.recall_at("Ann lives in", "a", "2023-06-01").items] == ["Ann lives in Rome"]
    assert texts(graph, "2023-04-01") == ["Ann lives in Rome"]  # not told yet
    assert texts(graph, "2023-08-01") == [f"Ann lives in Oslo (since {JULY})"]


def test_of_two_facts_with_the_same_or_no_time_the_one_told_last_holds() -> None:
    graph = tell(system(), ROME, ("I live in Oslo.", MARCH))
    assert texts(graph) == texts(graph, "2023-04-01") == ["Ann live in Oslo"]
    undated = system()
    for number, (text, _) in enumerate((ROME, OSLO)):
        undated.observe(Turn(f"D:{number}", "Ann", text), "a")
    assert texts(undated) == texts(undated, "2023-04-01") == ["Ann live in Oslo"]


def test_unrelated_facts_are_not_retired() -> None:
    """Neither by rules nor by a model that calls everything a contradiction: it sees only what shares an entity."""
    facts = [
        ("I like fish.", MARCH),
        ("I like chess.", MAY),
        ("I live in Rome.", MAY),
        ("My sister lives in Oslo.", JULY),
    ]
    assert {end for _, end in intervals(tell(system(), *facts)).values()} == {None}
    judge = Judge(ended=".")
    graph = tell(system(judge), ("Ann | lives in | Rome", MARCH), ("Ben | plays | chess", MAY))
    assert judge.asked[CONTRADICTIONS.name] == []
    tell(graph, ("Ben | lives in | Oslo", JULY))
    assert judge.asked[CONTRADICTIONS.name] == ["1. Ben plays chess\nNew: Ben lives in Oslo"]
    assert intervals(graph)["Ann lives in Rome"] == (MARCH, None)


def test_a_fact_told_again_is_one_edge_with_both_turns_and_after_a_break_a_second_one() -> None:
    graph = tell(system(), ROME, ("I live in Rome!", MAY))
    (entry,) = graph.entries("a")
    assert (entry.source_turn_ids, entry.timestamp) == (("D:1", "D:2"), MARCH + "T10:00:00")
    tell(graph, ("I live in Bern.", JULY), ("I live in Rome.", "2023-09-01"))
    assert [e.text for e in graph.entries("a")] == ["Ann live in Rome", "Ann live in Bern", "Ann live in Rome"]
    assert [entry.entry_id for entry in graph.recall("Rome", "a").items] == [3]
    # A model that takes everything for a repetition of Rome is not believed of another town, nor of what has ended.
    judge = Judge(again="Rome", ended="Ann")
    told = [("Ann | lives in | Rome", MARCH), ("Ann | lives in | Bern", MAY), ("Ann | lives in | Rome", JULY)]
    graph = tell(system(judge), *told[:1], *told)
    assert [len(e.source_turn_ids) for e in graph.entries("a")] == [2, 1, 1]


def test_a_merged_alias_shares_its_facts_and_undo_takes_the_merge_back() -> None:
    judge = Judge(same="Ann Lee", ended="Rome")
    told = [("Ann Lee | lives in | Rome", MARCH), ("Ann | lives in | Oslo", MAY)]
    graph = tell(system(judge), *told)
    assert judge.asked[ENTITY_MERGE.name] == ["1. Ann Lee (Ann Lee lives in Rome)\nNew: Ann (Ann lives in Oslo)"]
    assert graph.state("a").entity("ann") == "ann lee"
    assert intervals(graph) == {"Ann Lee lives in Rome": (MARCH, MAY), "Ann lives in Oslo": (MAY, None)}
    tell(graph, ("Ann | plays | chess", JULY))  # a known name is not asked about again
    assert len(judge.asked[ENTITY_MERGE.name]) == 1
    graph.log.undo("a", 2)  # the third fact, then the merge
    assert graph.state("a").entity("ann") == "ann"
    # Without the merge the two share no entity, so Rome no longer ends.
    assert intervals(graph) == {"Ann Lee lives in Rome": (MARCH, None), "Ann lives in Oslo": (MAY, None)}
    graph.log.redo("a")
    assert intervals(graph)["Ann Lee lives in Rome"] == (MARCH, MAY)
    refusing = tell(system(Judge()), *told)
    assert refusing.state("a").entity("ann") == "ann"


def test_names_are_compared_without_case_article_and_punctuation_and_never_merged_over_digits() -> None:
    assert plain_name("The  Café-Bar!") == plain_name("café bar") == "café bar"
    assert (plain_name("the"), plain_name("🙂")) == ("the", "🙂")
    judge = Judge(same=".")
    tell(system(judge), ("the night flight 12 | goes to | Rome", MAY), ("the night flight 13 | goes to | Oslo", MAY))
    assert judge.asked[ENTITY_MERGE.name] == []


def test_only_some_relations_hold_for_one_thing_at_a_time() -> None:
    assert slot_of("lives in") == slot_of("is living in") == slot_of("has moved to") == slot_of("live in") == "home"
    assert slot_of("sister lives in") == "sister home"
    assert slot_of("works at") == "work" != slot_of("works as")
    assert slot_of("likes") == slot_of("saw") == slot_of("is") == ""


def test_what_is_past_or_only_sounds_like_a_name_ends_nothing() -> None:
    told = ["I live in Oslo.", "I lived in Rome as a child.", "I work at Solmark.", "I worked for Acme, once."]
    graph = tell(system(), *((text, MAY) for text in (*told, "I called Ben.", "I called the doctor.")))
    assert {end for _, end in intervals(graph).values()} == {None}
    assert slot_of("cat is called") == "cat name"


def test_times_are_compared_in_utc_and_a_year_is_its_first_day() -> None:
    assert moment("2023-05-01T10:00:00+02:00") == moment("2023-05-01T08:00:00Z") == "2023-05-01T08:00:00"
    assert (moment("2019"), moment("2019-05")) == ("2019-01-01T00:00:00", "2019-05-01T00:00:00")
    assert moment("") == moment("last summer") == moment("2023-02-30") == ""
    assert moment("0001-01-01T00:00+14:00") == moment("9999-12-31T23:00-10:00") == ""  # in UTC there is no such year


def test_three_searches_are_fused_by_reciprocal_rank() -> None:
    """As Graphiti weighs places (1, 1/2, 1/3): a: 1 + 1/3 + 1/2, b: 1/2 + 1, c: 1/3 + 1, d: 1/2."""
    assert reciprocal_rank_fusion([["a", "b", "c"], ["b", "d", "a"], ["c", "a"]], RANK_CONSTANT) == ["a", "b", "c", "d"]
    # One first place beats two third ones: 1 for a, b and 2/3 for d.
    assert reciprocal_rank_fusion([["a", "c", "d"], ["b", "e", "d"]], RANK_CONSTANT)[:3] == ["a", "b", "d"]


def test_a_fact_two_hops_from_a_named_entity_is_found_before_one_that_no_path_leads_to() -> None:
    told = [("Cleo | paints | boats", MARCH), ("Ann | married | Ben", MARCH), ("Ben | breeds | goats", MARCH)]
    query = "Which animals surround Ann?"
    expected = ["Ann married Ben", "Ben breeds goats"]
    assert texts(tell(system(Judge()), *told), query=query)[:2] == expected
    # With one hop the second fact is out of reach, and order of age decides.
    assert texts(tell(system(Judge(), hops=1), *told), query=query)[1] == "Cleo paints boats"


def test_two_systems_on_one_file_neither_lose_nor_double_anything(tmp_path: Path) -> None:
    first, second = system(), system()
    for graph in (first, second):
        graph.load(tmp_path / "memory", create=True)
    tell(first, ROME)
    tell(second, OSLO)
    tell(first, BERN)
    assert intervals(first) == intervals(second)
    assert [end for _, end in intervals(first).values()] == [MAY, JULY, None]

    def write(graph: TemporalGraph, places: range) -> None:
        for place in places:
            tell(graph, (f"I live in town {place}.", f"2024-{1 + place // 28:02}-{1 + place % 28:02}"))

    with ThreadPoolExecutor() as pool:  # each town has a day of its own, in both writers' order
        list(pool.map(write, (first, second), (range(0, 60, 2), range(1, 60, 2))))
    assert len(first.entries("a")) == 63
    edges = sorted(first.state("a").edges.values(), key=lambda edge: edge.valid_at)
    assert [edge.invalid_at for edge in edges] == [edge.valid_at for edge in edges[1:]] + [None]
    third = system()
    third.load(tmp_path / "memory")
    assert dict(third.state("a").edges) == dict(second.state("a").edges)


def test_a_fact_that_another_writer_adds_in_between_is_judged_when_written(tmp_path: Path) -> None:
    judge = Judge()
    first, second = system(judge), system()
    for graph in (first, second):
        graph.load(tmp_path / "memory", create=True)
    reply = judge.model.script

    def interrupted(prompt: Messages, adapter: str | None) -> str:
        tell(second, ROME)
        return reply(prompt, adapter)

    judge.model.script = interrupted
    tell(first, ("Ann | lives in | Oslo", MAY))
    assert judge.asked[CONTRADICTIONS.name] == []  # when the model was asked, nothing was known
    assert intervals(first) == {"Ann live in Rome": (MARCH, MAY), "Ann lives in Oslo": (MAY, None)}


def test_forgetting_a_fact_takes_its_turns_other_facts_and_what_it_ended_holds_again(tmp_path: Path) -> None:
    graph = tell(system(), ROME, ("I live in Secretville. My cat is called Momo.", MAY), ("I like fish.", JULY))
    assert intervals(graph)["Ann live in Rome"] == (MARCH, MAY)
    assert graph.forget("a", {2}) == 2
    assert intervals(graph) == {"Ann live in Rome": (MARCH, None), "Ann like fish": (JULY, None)}
    graph.save(tmp_path / "memory")
    content = (tmp_path / "memory").read_bytes()
    assert [word in content for word in (b"Secretville", b"Momo", b"fish")] == [False, False, True]


def test_no_reply_outlives_the_fact_that_it_quotes(tmp_path: Path) -> None:
    judge = Judge()
    told = system(judge)
    tell(told, ("Ann | owns | secretcats", MARCH))
    judge.model.script = lambda prompt, adapter: prompt[-1]["content"]  # a model that echoes, so that rules write
    tell(told, ("I like fish.", MARCH))  # in the same session, so that the prompt shows the turn before
    told.forget("a", {1})
    told.save(tmp_path / "memory")
    assert b"secretcats" not in (tmp_path / "memory").read_bytes()


def test_who_wrote_what_is_counted() -> None:
    graph = tell(system(Judge()), ("Ann | lives in | Rome", MARCH), ("Ann | likes | fish", MAY))
    # Two turns read, and the second fact judged against the first.
    assert count_writings(graph.records("a")) == {"written_by_model": 3, "written_by_rules": 0}
    assert sum(record.model_calls for record in graph.records("a")) == 3


@pytest.mark.parametrize("options", [{"alike": 1.5}, {"hops": 0}])
def test_what_is_out_of_range_is_refused(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(ConfigurationError, match=f"{name} is "):
        system(**options)
