"""Made-up records of every benchmark, with the defects of the real files."""

from __future__ import annotations

from typing import Any

OWN: dict[str, Any] = {
    "dialogue_id": "d1",
    "speakers": ["Ann", "Ben"],
    "sessions": [
        {
            "session_id": f"s{number}",
            "timestamp": f"2023-05-0{number}T10:00:00",
            "turns": [{"turn_id": f"s{number}:1", "speaker": "Ann", "text": "Hello."}],
        }
        for number in (1, 2)
    ],
    "questions": [
        {"question_id": f"q{number}", "question": "?", "answer": "x", "category": category, "evidence": []}
        for number, category in enumerate(("update", "single", "update"))
    ],
}
LOCOMO: dict[str, Any] = {
    "sample_id": "conv-26",
    "conversation": {
        "speaker_a": "Ivo",
        "speaker_b": "Una",
        # session 10 is before session 2 here and must be sorted after it
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [
            {"speaker": "Ivo", "dia_id": "D1:1", "text": "I bought a kayak. "},
            {
                "speaker": "Una",
                "dia_id": "D1:2",
                "text": "Look at this!",
                "img_url": ["https://example.org/1.jpg"],
                "blip_caption": "a photo of a red barn",
                "query": "secret barn in Norway",
                "re-download": True,
            },
        ],
        "session_10_date_time": "12:09 am on 1 December, 2023",
        "session_10": [{"speaker": "Una", "dia_id": "D10:1", "text": "Happy advent."}],
        "session_2_date_time": "10:37 am on 27 June, 2023",
        "session_2": [
            {"speaker": "Una", "dia_id": "D2:1", "text": "I paint now."},
            {"speaker": "Ivo", "dia_id": "D2:2", "text": "", "blip_caption": "a kayak"},
        ],
        "session_11_date_time": "9:00 am on 2 December, 2023",
        "session_12_date_time": "9:00 am on 3 December, 2023",
    },
    "qa": [
        {"question": "When did Ivo buy a kayak?", "answer": 2023, "evidence": ["D1:1"], "category": 2},
        {"question": "What does Una do?", "answer": "paint", "evidence": [], "category": 3},
        {"question": "a", "answer": "x", "evidence": ["D10:1; D1:2"], "category": 1},
        {"question": "b", "answer": "x", "evidence": ["D", "D2:1"], "category": 4},
        {"question": "c", "answer": "x", "evidence": ["D:1:2"], "category": 4},
        {"question": "d", "answer": "x", "evidence": ["D2:1 D1:1 D2:2"], "category": 4},
        {"question": "e", "answer": "x", "evidence": ["D02:01", "D2:1"], "category": 4},
        {"question": "f", "answer": "x", "evidence": ["D9:9", "D10:19"], "category": 4},
        {"question": "g", "adversarial_answer": "a canoe", "evidence": ["D1:1"], "category": 5},
        {"question": "h", "adversarial_answer": "Yes", "answer": "No", "evidence": ["D1:1"], "category": 5},
        {"question": "b", "answer": "x", "evidence": ["D2:1"], "category": 4},
    ],
    "observation": {
        "session_10_observation": {"Una": [["Una likes advent.", "D10:1"]]},
        "session_1_observation": {
            "Una": [["Una showed a barn and heard of the kayak.", ["D1:2", "D1:1"]]],
            "Ivo": [["Ivo owns a kayak.", "D1:1"], ["Ivo said much.", "D1:1, D2:2"]],
        },
    },
    "event_summary": {},
    "session_summary": {},
}


def said(role: str, content: str, evidence: bool = False) -> dict[str, Any]:
    return {"role": role, "content": content, "has_answer": evidence}


# The sessions are out of order; "evening" begins after the question, on the same day.
LONGMEMEVAL: dict[str, Any] = {
    "question_id": "q1",
    "question_type": "multi-session",
    "question": "How many kayaks do I own? ",
    "answer": 2,
    "question_date": "2023/04/10 (Mon) 17:30",
    "haystack_dates": ["2023/04/10 (Mon) 18:05", "2023/03/01 (Wed) 09:00"],
    "haystack_session_ids": ["evening", "morning"],
    "haystack_sessions": [
        [said("user", " I bought a second kayak.\n", True), said("assistant", "Nice.")],
        [said("user", "Hello."), said("assistant", "  "), said("user", "I own a kayak.", True)],
    ],
    "answer_session_ids": ["morning", "evening"],
}
LONGMEMEVAL_ABSTENTION: dict[str, Any] = {
    "question_id": "q2_abs",
    "question_type": "knowledge-update",
    "question": "Where is my canoe?",
    "answer": "You did not mention a canoe. 3 or 4 days is also acceptable.",
    "question_date": "2023/04/11 (Tue) 08:00",
    "haystack_dates": ["2023/04/09 (Sun) 10:00"],
    "haystack_session_ids": ["kayak"],
    "haystack_sessions": [[said("user", "My kayak is in the shed.")]],
    "answer_session_ids": ["kayak"],
}
# The filler session is repeated at one time, between evidence of another day.
LONGMEMEVAL_S: dict[str, Any] = {
    **LONGMEMEVAL_ABSTENTION,
    "question_id": "q3",
    "haystack_dates": ["2023/05/01 (Mon) 10:00", "2023/05/02 (Tue) 10:00", "2023/05/02 (Tue) 10:00"],
    "haystack_session_ids": ["kayak", "filler_1", "filler_1"],
    "haystack_sessions": [[said("user", "It is in the shed.", True)], [said("user", "A.")], [said("user", "A.")]],
}
MSC: dict[str, Any] = {
    "personas": [["I paint."], ["I sail."]],
    "metadata": {"initial_data_id": "valid_1", "session_id": 4},
    "previous_dialogs": [
        # only some files name the speakers of earlier sessions; they take turns
        {"time_back": "6 days 3 hours ago", "dialog": [{"text": "I paint. "}, {"text": "I sail."}, {"text": "Oh!"}]},
        {"time_back": " 1 hour ago", "dialog": [{"text": " "}, {"text": "I sold my boat.", "id": "bot_1"}]},
    ],
    "dialog": [{"id": "Speaker 2", "text": "Hi again."}, {"id": "Speaker 1", "text": "Hi."}],
    "self_instruct": {"B": "What did you say you do? ", "A": "I paint"},
}
MSC_CONVERSATION: dict[str, Any] = {
    "id": "valid_7",
    "split": "valid",
    "sessions": [
        {"time_back": "2 days ago", "turns": [{"speaker": 1, "text": "I paint."}, {"speaker": 2, "text": "I sail."}]},
        {"time_back": " 5 hours ago", "turns": [{"speaker": 1, "text": "Hello."}]},
        # the first speaker has a stray number
        {"time_back": None, "turns": [{"speaker": 50352, "text": "My dog is old."}, {"speaker": 2, "text": "Aw."}]},
        {"time_back": None, "turns": [{"speaker": 1, "text": "Bye."}]},
    ],
}
MSC_QUESTION: dict[str, Any] = {
    "index": 12,
    "conversation": "valid_7",
    "question": "What does Speaker_12_A do",
    "answer": "paint",
    "margin": 6.5,
}
