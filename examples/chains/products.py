"""A product's description as data: asked, read by a pydantic model, asked again where it cannot be read, and put to use.

python examples/chains/products.py builds/demo "a kite for windy days"
"""

import sys

from pydantic import BaseModel

from dunwu.chat.local import LocalChat
from dunwu.chat.protocol import Chat
from dunwu.prompt.chains import Ask, Chain, Inputs, Result, Schema


class Product(BaseModel):
    name: str
    price: float


def label(product: Product) -> str:
    """What is printed on the shelf."""
    return f"{product.name}: {product.price:.2f}"


def products() -> Chain:
    """The chain: `|` puts steps one after the other, and a function can stand where a step is due."""
    asked = Ask(
        'Invent a product: {{ idea }}. Answer with JSON alone: {"name": …, "price": …}',
        gives="said",
        temperature=0.8,
        seed=1,
        schema=Product.model_json_schema(),
    )
    read = (asked | Schema(Product, "product", of="said")).retrying(3)
    return Inputs(idea=str) | read | label


def main(chat: Chat, idea: str) -> Result:
    """Run it, and say what each step took."""
    result = products().run({"idea": idea}, chat)
    print(result.answer)
    for span in result.trace.spans:
        print(f"  {span.step}: {span.seconds:.3f} s, {span.completion_tokens} tokens, {span.retries} retries")
    return result


if __name__ == "__main__":
    main(LocalChat.load(sys.argv[1]), sys.argv[2])
