"""Personal data goes, ordinary numbers stay."""

import gzip
import json

import pytest
from document_files import SHARED
from hypothesis import given
from hypothesis import strategies as st

from dunwu.corpus.redact import redact, valid_card, valid_chinese_id

PRIVATE = [
    ("email", "写信到 zhang.san+work@mail.example.com.cn，谢谢。", "写信到 [EMAIL]，谢谢。"),
    ("email", "<jane@example.org>, bob_1@x-y.io.", "<[EMAIL]>, [EMAIL]."),
    ("email", "_jane@example.org_ -bob@example.org", "_[EMAIL]_ -[EMAIL]"),
    ("phone", "电话13800138000，", "电话[PHONE]，"),
    ("phone", "Tel.13800138000", "Tel.[PHONE]"),
    ("phone", "座机 (010) 62345678，（0755）1234567。", "座机 [PHONE]，[PHONE]。"),
    ("phone", "手机：138-0013-8000 或 +86 139 1234 5678。", "手机：[PHONE] 或 [PHONE]。"),
    ("phone", "座机 010-62345678。", "座机 [PHONE]。"),
    ("phone", "call (555) 234-5678 or 555-234-5678 now", "call [PHONE] or [PHONE] now"),
    ("phone", "London +44 20 7946 0958.", "London [PHONE]."),
    ("chinese_id", "身份证11010519491231002X。", "身份证[ID]。"),
    ("bank_card", "card 4111 1111 1111 1111, thanks", "card [CARD], thanks"),
    ("bank_card", "卡号6222021234567890128。", "卡号[CARD]。"),
    ("secret", "key AKIAIOSFODNN7EXAMPLE end", "key [SECRET] end"),
    ("secret", "token=ghp_" + "a1B2" * 9, "token=[SECRET]"),
    ("secret", "OPENAI: sk-proj-" + "Ab3dEf6h" * 4 + " ok", "OPENAI: [SECRET] ok"),
    (
        "secret",
        "jwt eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
        "jwt [SECRET]",
    ),
    ("secret", 'password = "hunter2hunter2"', 'password = "[SECRET]"'),
    ("secret", '{"api_key": "0f9e8d7c6b5a"}', '{"api_key": "[SECRET]"}'),
    ("secret", "密码：hunter2hunter2。", "密码：[SECRET]。"),
    ("secret", "the password: correct4horse.", "the password: [SECRET]."),
    ("secret", "PASSWORD=hunter2x9\nnext", "PASSWORD=[SECRET]\nnext"),
    ("phone", "电话１３８００１３８０００，", "电话[PHONE]，"),
    ("email", "写信到 zhang３@example．com，", "写信到 [EMAIL]，"),
    ("chinese_id", "身份证号码：110105491231002，", "身份证号码：[ID]，"),
    (
        "private_key",
        "a\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----\nb",
        "a\n[PRIVATE_KEY]\nb",
    ),
    (
        "private_key",
        "'-----BEGIN PRIVATE KEY-----\\n" + "MIIEvQIBADANBgkq+/kw=" * 3 + "\\n-----END PRIVATE KEY-----\\n'",
        "'[PRIVATE_KEY]\\n'",
    ),
    (
        "private_key",
        "-----BEGIN EC PRIVATE KEY-----\n" + ("MIIEvQIBADANBgkq+/kw=" * 3 + "\n") * 4 + "\nCut (short), alas.",
        "[PRIVATE_KEY]\n\nCut (short), alas.",
    ),
]


def test_a_text_that_speaks_of_private_keys_stays() -> None:
    rest = " opens the file (as we saw), in every format.\n\n后面的正文（很长）都要保留。" * 3
    assert redact("The line -----BEGIN PRIVATE KEY-----" + rest)[0] == "The line [PRIVATE_KEY]" + rest


@pytest.mark.parametrize(("kind", "text", "clean"), PRIVATE, ids=range(len(PRIVATE)))
def test_private_data_is_replaced_and_counted(kind: str, text: str, clean: str) -> None:
    found, counts = redact(text)
    assert found == clean
    assert set(counts) == {kind}
    assert counts[kind] == clean.count("[")


@pytest.mark.parametrize("tail", ["", "\n" + "quite ordinary words, " * 300])
@pytest.mark.parametrize("head", ["", "中文在前面，" * 500])
def test_place_in_a_long_text_does_not_matter(head: str, tail: str) -> None:
    for kind, text, clean in PRIVATE:
        assert redact(f"{head} {text} {tail}")[0] == f"{head} {clean} {tail}", kind


@pytest.mark.parametrize(
    "text",
    [
        "ISBN 978-7-02-000220-7 and ISBN 9787020002207",
        "2024-05-01 12:30:45.123456, 20240501123045",
        "It cost $1,234,567.89 in 1987-1990, pp. 1024-2048.",
        "π = 3.14159265358979323846",
        "192.168.100.200:8080",
        "uuid 47041f69-1316-4058-9660-f47427973d2a",
        "sha 13800138000abcdef13800138000",
        "11010519491231002 is one digit short; 110105194912310021 has a wrong check",
        "4111 1111 1111 1112 fails Luhn",
        "git@github.com:owner/repo.git",
        "risk-averse task-oriented desk-based disk-like sk-learn",
        "@decorator and user@localhost",
        "1234567 12345678 123456789 1234567890 numbers in a row",
        "timestamp 1714521600000 and id 9007199254740993",
        "第 13 回 共 120 回 1754年 9,600,000 平方公里",
        'password = "${DB_PASSWORD}" and token = "<your token>"',
        "A_VERY_LONG_CONSTANT_NAME_IN_A_PROGRAM = some_function_with_a_long_name()",
        "一三八零零一三八零零零",
        "password: required, pwd=None, password=get_password1(), password = argv[1]",
        "订单号 110105491231002 已发货；身份证复印件 2 份",
        "密码：见附件二",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == (text, {})


def test_check_digits() -> None:
    assert valid_chinese_id("11010519491231002X")
    assert not valid_chinese_id("110105194912310021")
    assert not valid_chinese_id("11010519491331002X")
    assert valid_card("4111-1111-1111-1111")
    assert not valid_card("4111-1111-1111-1112")
    assert not valid_card("0000 0000 0000 0000")


@given(st.text(alphabet="abcxyz @.-+0123456789()\n电话", max_size=120))
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once, _ = redact(text)
    twice, _ = redact(once)
    assert twice.count("[") >= once.count("[")
    assert redact(twice)[0] == twice


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not beside this checkout")
def test_no_false_alarm_in_old_books() -> None:
    for path in sorted((SHARED / "zh_classic_novels").glob("*.txt.gz")):
        assert not redact(gzip.decompress(path.read_bytes()).decode())[1]
    for path in sorted((SHARED / "en_classic_books").glob("*.jsonl.gz")):
        for line in gzip.decompress(path.read_bytes()).decode().splitlines():
            assert not redact(json.loads(line)["text"])[1]


@pytest.mark.parametrize(
    "name", ["api-key", "SECRET_KEY", "access_token", "Client_Secret", "PASSWD", "pwd", "密码", "口令", "密钥"]
)
@pytest.mark.parametrize("end", ["", '"', "'", "是", "为", " ", "\t", "\u3000", "\xa0", "\n"])
def test_a_value_is_a_secret_however_its_name_ends(name, end):
    assert redact(f"{name}{end}: hunter2hunter2")[0] == f"{name}{end}: [SECRET]"
