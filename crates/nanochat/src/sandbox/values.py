# The beginning of both processes: their files, and what they tell each other, plain values in lines of JSON. A value
# that has come over is of Python's own types: it has no `__eq__` and nothing else of the program that made it.
import json, os

# What they hear, say, and report to nanochat; where they would read and print, there is nothing.
heard, said, report = (os.dup(fd) for fd in range(3))
nothing = os.open(os.devnull, os.O_RDWR)
for fd in range(3):
    os.dup2(nothing, fd, False)
os.close(nothing)
heard = os.fdopen(heard, encoding='ascii')
said = os.fdopen(said, 'w', encoding='ascii')


def mark(letter):
    """Says how far this process has come: the first byte of its report."""
    os.lseek(report, 0, os.SEEK_SET)
    os.write(report, letter)


def job():
    with os.fdopen(os.dup(report), encoding='utf-8') as file:
        file.seek(1)
        return json.loads(file.readline())


def say(value):
    said.write(json.dumps(value) + '\n')
    said.flush()


class Other:
    """Stands for what is no plain value, and equals nothing."""


def each(values):
    return [pack(value) for value in values]


def unpacked(kind):
    return lambda values: kind(unpack(value) for value in values)


# Of each kind: its type, how it is taken apart, how it is put together.
KINDS = {
    'int': (int, hex, lambda text: int(text, 16)),
    'complex': (complex, lambda value: [value.real, value.imag], lambda parts: complex(*parts)),
    'bytes': (bytes, bytes.hex, bytes.fromhex),
    'bytearray': (bytearray, bytearray.hex, bytearray.fromhex),
    'list': (list, each, unpacked(list)),
    'tuple': (tuple, each, unpacked(tuple)),
    'set': (set, each, unpacked(set)),
    'frozenset': (frozenset, each, unpacked(frozenset)),
    'dict': (dict, lambda value: each(value.items()), unpacked(dict)),
    'range': (range, lambda value: [value.start, value.stop, value.step], lambda ends: range(*ends)),
}

# Numbers that go as text, and their modules.
EXACT = {'Decimal': 'decimal', 'Fraction': 'fractions'}


def pack(value):
    if value is None or isinstance(value, (bool, float, str)):
        return value
    for name, (kind, apart, _) in KINDS.items():
        if isinstance(value, kind):
            return [name, apart(value)]
    if type(value).__name__ in EXACT:
        return [type(value).__name__, str(value)]
    if hasattr(value, '__next__'):
        return ['iterator', each(value)]
    return ['other', other(value)]


def unpack(value):
    if not isinstance(value, list):
        return value
    kind, value = value
    if kind == 'iterator':
        return iter([unpack(item) for item in value])
    if kind in EXACT:
        return getattr(__import__(EXACT[kind]), kind)(value)
    return KINDS[kind][2](value) if kind in KINDS else Other()
