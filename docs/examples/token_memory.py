"""A token memory: one embedding per text, changed by its index and found by dot product.

python docs/examples/token_memory.py
"""

from memory_r1.errors import ConfigurationError
from memory_r1.memory.embedder import SentenceEmbedder
from memory_r1.models import resolve_embedder
from memory_r1.systems.plain_tokens import TokenMemory


def main(embedder_name: str = "all-MiniLM-L6-v2") -> None:
    embedder = SentenceEmbedder(resolve_embedder(embedder_name))
    memory = TokenMemory(embedder, dimension=384)
    memory.add("Alice loves playing chess.")
    home = memory.add("Alice lives in Rome.")
    memory.update(home, "Alice lives in Oslo.")

    token = memory.retrieve("Where does Alice live?")
    assert token is not None, "the memory holds two tokens"
    print(f"token {token.index}: {token.text} ({token.embedding.shape[0]} numbers, similarity {token.similarity:.2f})")

    try:
        TokenMemory(embedder, dimension=128)
    except ConfigurationError as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    main()
