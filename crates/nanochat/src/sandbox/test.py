# The process of the test: it calls the function that is in the other process, and judges what comes back.
import builtins


def other(value):
    if not isinstance(value, Other):
        mark(b'o')  # the test itself asks for what cannot be done
        os._exit(1)


def answer():
    """What the program says. The test ends with it, whatever exceptions it would catch."""
    try:
        return json.loads(heard.readline())
    except Exception:
        os._exit(1)


def function(*positional, **named):
    call = pack([positional, named])
    try:
        say(call)
        kind, value = answer()
        value = unpack(value)
    except Exception:
        os._exit(1)
    if kind == 'returned':
        return value
    kind = getattr(builtins, str(value), Exception)
    raise kind() if isinstance(kind, type) and issubclass(kind, Exception) else Exception(value)


mark(b's')
job = job()
answer()
names = {'__name__': '__main__'}
try:
    exec(compile(job['prompt'], 'prompt', 'exec'), names)
except SyntaxError:
    exec(compile(job['imports'], 'imports', 'exec'), names)
names[job['function']] = function
exec(compile(job['test'], 'test', 'exec'), names)
names['check'](function)
mark(b'p')
