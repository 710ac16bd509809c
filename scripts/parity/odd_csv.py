"""Odd CSV and TSV texts with the records that Python's csv module reads from them, as the fixture of the tests in
crates/nanochat/src/files/table/csv.rs.

    python scripts/parity/odd_csv.py > crates/nanochat/tests/fixtures/odd_csv.json

Records without fields (empty lines) are left out, and so are those of one blank field, as nanochat leaves them out.
"""

import csv
import io
import json
import random

HAND = [
    "", "\n", "\r\n\r\n", "a", "a,b", "a,b\n", "a,b\r\nc,d\r\n", "a,b\rc,d\r", "a,b\n\n\nc,d\n", "a,b\r\n\r\nc,d",
    '"a","b"\n', '"a,b",c\n', '"x\ny",z\n', '"x\r\ny",z\r\n', '"say ""hi""",b\n', '"""",""""""\n', '"",""\n', ",\n",
    ",,\n", 'a"b,c"d"\n', '"a"b,c\n', '"a" ,b\n', ' "a",b\n', ' "a,b"\n', '"a"b"c",d\n', '"a""b"c""d",e\n', '"open,x\ny',
    '"open\n', '"', '""', '"""', 'x,"', 'x,""', 'x,"\r\n', "\ufeffa,b\n1,2\n", '\ufeff"a",b\n1,2\n', "a;b,c\n", "a\tb,c\n",
    "人,口\n一,\"二\n三\"\n", "a,\u2028b\n", "a\x0bb,c\x0c\n", "a\\,b\n", '"a\\"b",c\n', "a,b\n1\n1,2,3\n", "a,b\n ,\n", "'a,b',c\n",
    "#a,b\n", "a, b ,c \n", "a\x00b,c\n",
]


def text(rng):
    return "".join(rng.choice(['a', 'b', ',', ',', '"', '"', '\n', '\r', '\r\n', '人', ' ', '\t']) for _ in range(rng.randrange(1, 24)))


def records(text, separator):
    rows = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), delimiter=separator)
    return [row for row in rows if len(row) > 1 or row and row[0].strip(" \t\r\n\x0c")]


rng = random.Random(0)
texts = [(one, ",") for one in HAND] + [(text(rng), ",") for _ in range(40)] + [(text(rng), "\t") for _ in range(10)]
cases = [{"separator": separator, "text": one, "records": records(one, separator)} for one, separator in texts]
print("[" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "]")
