"""Small parquet files in every packing, encoding and page version that pyarrow writes, and the rows they hold.

    python scripts/parity/make_parquet_fixtures.py

writes crates/nanochat/tests/fixtures/parquet/*.parquet and rows.jsonl, which holds for all of them, and
parquet_large/, of which a test of the binary reads 29 MB. Tests of nanochat's table/ and dataset/ read the others. Pages hold a few rows each, so that every file has several.
"""

import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = pathlib.Path(__file__).parents[2] / "crates/nanochat/tests/fixtures/parquet"

PROMPT = "You are a helpful assistant. Answer in one sentence. " * 3
SCHEMA = pa.schema([
    ("text", pa.string()),
    ("id", pa.int64()),
    ("score", pa.float64()),
    ("is_good", pa.bool_()),
    ("tags", pa.list_(pa.string())),
    ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    ("source", pa.struct([("name", pa.string()), ("lines", pa.list_(pa.list_(pa.int32())))])),
])


def row(i):
    odd = ["", "\0", "\r", "猫", "🙂 astral", "a\nb\r\nc", None, " "]
    turn = lambda role, content: {"role": role, "content": content}
    return {
        "text": odd[i] if i < len(odd) else f"{PROMPT}Question {i}: what is {i} and {i}?",
        "id": None if i == 3 else (i * 7919 - 40_000) * (-1) ** i,
        "score": None if i == 4 else i / 4,
        "is_good": None if i == 5 else i % 3 == 0,
        "tags": [None, [], ["one"], ["one", None, ""], [None]][i % 5],
        "messages": [
            None,
            [],
            [turn("user", f"{PROMPT}Hello {i}"), turn("assistant", "Hi.")],
            [turn("user", None), None],
        ][i % 4],
        "source": [None, {"name": None, "lines": None}, {"name": "book", "lines": [[i, i + 1], [], None, [None]]}][i % 3],
    }


def write(name, rows, **options):
    options = {"use_dictionary": False, "compression": "zstd", **options}
    table = pa.Table.from_pylist(rows, SCHEMA)
    small = {"data_page_size": 256, "write_batch_size": 4, "row_group_size": 20, "store_schema": False, "write_statistics": False}
    pq.write_table(table, FOLDER / f"{name}.parquet", **small, **options)
    assert pq.read_table(FOLDER / f"{name}.parquet").to_pylist() == rows, name


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = [row(i) for i in range(30)]
    (FOLDER / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    texts = ["text", "tags.list.element", "messages.list.element.role", "messages.list.element.content", "source.name"]
    numbers = ["id", "source.lines.list.element.list.element"]
    for version in ["1.0", "2.0"]:
        for codec in ["none", "snappy", "gzip", "brotli", "lz4", "zstd"]:
            write(f"{codec}_v{version[0]}", rows, compression=codec, use_dictionary=True, data_page_version=version)
        for encoding in ["PLAIN", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"]:
            chosen = {column: encoding for column in texts}
            if encoding != "PLAIN":
                chosen |= {column: "DELTA_BINARY_PACKED" for column in numbers} | {"score": "BYTE_STREAM_SPLIT"}
            write(f"{encoding.lower()}_v{version[0]}", rows, column_encoding=chosen, data_page_version=version)
    # A dictionary that grows too large: the pages after it are plain.
    write("dictionary_then_plain", rows, use_dictionary=True, dictionary_pagesize_limit=300)
    # Documents that share a prompt of 74 KB: a dictionary of 29 MB in a few KB.
    shared = pa.table({"text": [f"{PROMPT * 460}Question {i}?" for i in range(400)]})
    FOLDER.with_name("parquet_large").mkdir(exist_ok=True)
    pq.write_table(shared, FOLDER.with_name("parquet_large") / "shared_prompt.parquet", compression="zstd", store_schema=False, write_statistics=False)


if __name__ == "__main__":
    main()
