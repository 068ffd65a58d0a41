import numpy as np
import openai
import pytest


def test_vectors_are_of_length_one_alike_in_both_encodings_and_nearest_to_themselves(client):
    texts = ["a cat sat", "猫坐着", "a cat sat"]
    packed = client.embeddings.create(model="kitten", input=texts)  # the package asks for base64 and unpacks it
    plain = client.embeddings.create(model="kitten", input=texts, encoding_format="float")
    vectors = np.array([one.embedding for one in packed.data])
    assert [one.index for one in packed.data] == [0, 1, 2]
    assert np.allclose(vectors, [one.embedding for one in plain.data])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(vectors[0], vectors[2], atol=1e-5)
    assert vectors[0] @ vectors[1] < 0.99
    assert packed.usage.prompt_tokens > 3


def test_ids_are_embedded_as_they_are(client):
    one = client.embeddings.create(model="kitten", input=[5, 6, 7])
    many = client.embeddings.create(model="kitten", input=[[5, 6, 7], [8]])
    assert one.usage.prompt_tokens == 3
    assert np.allclose(one.data[0].embedding, many.data[0].embedding, atol=1e-5)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"input": []}, "holds nothing"),
        ({"input": "ab" * 3000}, "a text takes 6001"),
        ({"dimensions": 7}, "dimensions=7"),
        ({"encoding_format": "hex"}, "encoding_format='hex'"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(client, more, complaint):
    with pytest.raises(openai.BadRequestError, match=complaint):
        client.embeddings.create(**{"model": "kitten", "input": "a", **more})
