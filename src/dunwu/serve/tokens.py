"""`POST /tokenize` and `POST /detokenize`: what the model sees of a text."""

import asyncio

from dunwu.serve.answers import token_text
from dunwu.serve.conversation import messages_of, prompt_ids
from dunwu.serve.errors import ApiError
from dunwu.serve.models import ServedModel
from dunwu.serve.objects import Detokenized, Tokenized
from dunwu.serve.prompts import read_prompts, require_ids
from dunwu.serve.schemas import DetokenizeRequest, TokenizeRequest

MOST_SPELLED = 32_768


async def tokenize(asked: TokenizeRequest, model: ServedModel) -> Tokenized:
    """The ids, and on demand the text of each. Raises ApiError."""
    ids = await _ids(asked, model)
    answer: Tokenized = {"count": len(ids), "max_model_len": model.context_length, "tokens": ids, "token_strs": None}
    if asked.return_token_strs:
        if len(ids) > MOST_SPELLED:
            raise ApiError(
                400,
                f"{len(ids)} tokens are more than the {MOST_SPELLED} that are spelled at a time; send less, or leave "
                "return_token_strs out",
                param="return_token_strs",
                code="invalid_value",
            )
        answer["token_strs"] = [token_text(model.tokenizer, number) for number in ids]
        answer["token_bytes"] = [list(model.tokenizer.id_bytes(number)) for number in ids]
    return answer


async def _ids(asked: TokenizeRequest, model: ServedModel) -> list[int]:
    if asked.messages is not None:
        tools = [tool.model_dump(exclude_none=True) for tool in asked.tools or ()]
        return await prompt_ids(model, messages_of(asked.messages), tools=tools, settings=asked.chat_template_kwargs)
    if not asked.prompt and asked.add_special_tokens is False:
        return []
    start = asked.add_special_tokens is not False
    return list((await read_prompts(asked.prompt or "", model, start=start, most=1))[0].ids)


async def detokenize(asked: DetokenizeRequest, model: ServedModel) -> Detokenized:
    """The text of ids, by default with the names of special tokens. Raises ApiError 400 for ids that there are not."""
    require_ids(asked.tokens, model, "tokens")
    text = await asyncio.to_thread(model.tokenizer.decode, asked.tokens, bool(asked.skip_special_tokens))
    return {"prompt": text}
