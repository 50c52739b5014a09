"""A memory with retrieval: told three sentences, it recalls the one that answers a question.

python docs/examples/rag_memory.py
"""

from memory_r1.memory.embedder import SentenceEmbedder
from memory_r1.memory.rag_memory import RagMemory
from memory_r1.models import resolve_embedder


def main(embedder_name: str = "all-MiniLM-L6-v2") -> None:
    memory = RagMemory(SentenceEmbedder(resolve_embedder(embedder_name)), capacity=100)
    memory.add("My name is Alice and I love playing chess.")
    memory.add("I enjoy hiking in the mountains during the weekend.")
    memory.add("I am learning reinforcement learning to improve my skills.")

    query = "What is your name?"
    print(query)
    for text, distance in memory.retrieve(query, k=2):
        print(f"  {distance:.2f}  {text}")


if __name__ == "__main__":
    main()
